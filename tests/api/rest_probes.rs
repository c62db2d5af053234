//! Probes need no credential, so they must cost nothing: they read what one worker measured.

use std::time::{Duration, Instant};

use sqlx::{ConnectOptions as _, Connection as _, Executor as _, sqlite::SqliteConnectOptions};

use crate::support::{Server, Setup, reply};

async fn readiness(server: &Server) -> u16 {
    reply(server.rest("GET", "/readyz")).await.status
}

#[tokio::test]
async fn a_probe_does_not_wait_for_the_database() {
    let server = Setup::new().start();
    let options = SqliteConnectOptions::new().filename(server.folder().join("keyward.db"));
    let mut writer = options.connect().await.unwrap();
    writer.execute("BEGIN IMMEDIATE").await.unwrap();
    let start = Instant::now();
    while readiness(&server).await == 200 {
        assert!(start.elapsed() < Duration::from_secs(30), "a database that is locked is not noticed");
    }
    // The fastest of several: a probe that asks the database is never faster than the database's own timeout.
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let start = Instant::now();
        assert_eq!(readiness(&server).await, 503);
        fastest = fastest.min(start.elapsed());
    }
    assert!(fastest < Duration::from_millis(500), "{fastest:?}");
    server.logged("not ready").await;
    writer.close().await.unwrap();
    let start = Instant::now();
    while readiness(&server).await != 200 {
        assert!(start.elapsed() < Duration::from_secs(30), "the service does not become ready again");
    }
}
