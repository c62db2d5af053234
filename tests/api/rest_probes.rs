//! Probes need no credential, so they must cost nothing: they read what one worker measured.

use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::{Connection as _, Executor as _};

use crate::support::{Server, Setup, reply, reply::within};

async fn readiness(server: &Server) -> u16 {
    reply(server.rest("GET", "/readyz")).await.status
}

#[tokio::test]
async fn a_probe_does_not_wait_for_the_database() {
    let server = Setup::new().config("[server]\nready_requires_writes = true\n").start();
    let mut writer = server.sqlite().await;
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

/// What a probe says: its status, and its message.
async fn says(server: &Server, path: &str) -> (u16, Value) {
    let (status, body) = server.call("GET", path, None, Value::Null).await;
    (status, body["message"].clone())
}

/// Waits until `/readyz` says this; how long that took.
async fn wait_for_answer(server: &Server, expected: &(u16, Value)) -> Duration {
    let start = Instant::now();
    loop {
        let said = says(server, "/readyz").await;
        if said == *expected {
            return start.elapsed();
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{said:?} is not {expected:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Memory and reads answer while another process holds the lock of the file: only writes are missing.
#[tokio::test]
async fn a_file_that_another_process_has_locked_shows_at_once_and_takes_no_reads_away() {
    let locked = "Another process holds the lock of the database";
    for (settings, status) in [("", 200), ("[server]\nready_requires_writes = true\n", 503)] {
        let server = Setup::new().config(settings).start();
        let mut writer = server.sqlite().await;
        within(Duration::from_millis(500), "the lock shows", async || {
            wait_for_answer(&server, &(200, Value::Null)).await;
            writer.execute("BEGIN IMMEDIATE").await.unwrap();
            let took = wait_for_answer(&server, &(status, locked.into())).await;
            assert_eq!(says(&server, "/readyz?verify=1").await, (200, locked.into()));
            writer.execute("ROLLBACK").await.unwrap();
            took
        })
        .await;
        // A write that waits for the lock changes nothing about it.
        wait_for_answer(&server, &(200, Value::Null)).await;
        writer.execute("BEGIN IMMEDIATE").await.unwrap();
        let waiting = server.rest("POST", "/api/api-keys").bearer_auth(crate::support::server::ROOT);
        let waiting = waiting.json(&serde_json::json!({"name": "n"})).send();
        let (_, took) = tokio::join!(waiting, async {
            let took = wait_for_answer(&server, &(status, locked.into())).await;
            writer.execute("ROLLBACK").await.unwrap();
            took
        });
        assert!(took < Duration::from_secs(30));
        wait_for_answer(&server, &(200, Value::Null)).await;
    }
}
