//! A server is killed at random moments: every change that it has committed has its event, and every event its change.

use std::{sync::Arc, time::Duration};

use keyward::{
    domain::clock::Entropy as _,
    domain::clock::SystemEntropy,
    proto::{CreateRequest, RevokeRequest, UpdateWebhookRequest},
};
use sqlx::{
    ConnectOptions as _, PgConnection, SqliteConnection, postgres::PgConnectOptions, sqlite::SqliteConnectOptions,
};

use crate::{
    postgres::fresh_database,
    support::{
        Server, Setup,
        grpc::Client,
        server::{ROOT, with},
    },
};

const ROUNDS: usize = 8;
const WRITERS: usize = 6;

/// Creates keys, changes their webhooks and revokes them until the server is gone; returns how many calls succeeded.
async fn write(mut client: Client) -> usize {
    let mut answered = 0;
    loop {
        let request = CreateRequest { webhook_url: "https://nowhere.invalid/x".into(), ..CreateRequest::default() };
        let Ok(made) = client.create(with(ROOT, request)).await else { return answered };
        answered += 1;
        let id = made.into_inner().key.unwrap().id;
        let url = UpdateWebhookRequest {
            id: id.clone(),
            webhook_url: "https://b.invalid/".into(),
            ..UpdateWebhookRequest::default()
        };
        if client.update_webhook(with(ROOT, url)).await.is_err() {
            return answered;
        }
        answered += 1;
        if client.revoke(with(ROOT, RevokeRequest { id, reason: String::new() })).await.is_err() {
            return answered;
        }
        answered += 1;
    }
}

async fn kill_while_writing(start: impl Fn() -> Server) -> usize {
    let mut answered = 0;
    for _ in 0..ROUNDS {
        let mut server = start();
        let client = server.client().await;
        let writers: Vec<_> = (0..WRITERS).map(|_| tokio::spawn(write(client.clone()))).collect();
        let mut random = [0; 2];
        SystemEntropy.fill(&mut random);
        tokio::time::sleep(Duration::from_millis(150 + u64::from(u16::from_le_bytes(random)) % 500)).await;
        server.signal("KILL");
        server.wait();
        for writer in writers {
            answered += writer.await.unwrap();
        }
    }
    answered
}

/// Each query counts the breaches of one rule.
const BREACHES: [(&str, &str); 6] = [
    (
        "a key without its creation event",
        "SELECT count(*) FROM keyward_keys k WHERE (SELECT count(*) FROM keyward_events e \
         WHERE e.key_id = k.id AND e.type = 'key.created' AND e.id = k.id) <> 1",
    ),
    (
        "an event without its key",
        "SELECT count(*) FROM keyward_events e WHERE e.key_id NOT IN (SELECT id FROM keyward_keys)",
    ),
    (
        "a revocation without its event, or an event without its revocation",
        "SELECT count(*) FROM keyward_keys k WHERE (SELECT count(*) FROM keyward_events e \
         WHERE e.key_id = k.id AND e.type = 'key.revoked') <> CASE WHEN k.revoked_at IS NULL THEN 0 ELSE 1 END",
    ),
    (
        "a webhook change without its event, or an event without its change",
        "SELECT count(*) FROM keyward_keys k WHERE (SELECT count(*) FROM keyward_events e \
         WHERE e.key_id = k.id AND e.type = 'webhook.updated') <> \
         CASE WHEN k.webhook_url = 'https://b.invalid/' THEN 1 ELSE 0 END",
    ),
    (
        "changes and events are not as many",
        "SELECT (SELECT value FROM keyward_revision) - (SELECT count(*) FROM keyward_events WHERE type <> 'key.created')",
    ),
    (
        "an event of a key with a webhook without its delivery",
        "SELECT count(*) FROM keyward_events e JOIN keyward_keys k ON k.id = e.key_id WHERE k.webhook_url <> '' \
         AND e.id NOT IN (SELECT event_id FROM keyward_deliveries)",
    ),
];

macro_rules! assert_consistent {
    ($conn:expr, $answered:expr) => {
        for (rule, sql) in BREACHES {
            let breaches: i64 = sqlx::query_scalar(sql).fetch_one(&mut $conn).await.unwrap();
            assert_eq!(breaches, 0, "{rule}");
        }
        let events: i64 =
            sqlx::query_scalar("SELECT count(*) FROM keyward_events").fetch_one(&mut $conn).await.unwrap();
        let events = usize::try_from(events).unwrap();
        // Every answered call is stored. Calls in flight may be, too.
        assert!($answered > 30 && events >= $answered, "{events} events, {} answered calls", $answered);
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_has_its_event_on_postgres_whenever_the_server_is_killed() {
    let url = fresh_database().await;
    let answered = kill_while_writing(|| Setup::new().database(&url).start()).await;
    let options: PgConnectOptions = url.parse().unwrap();
    let mut conn: PgConnection = options.connect().await.unwrap();
    // Postgres still executes what the last server sent.
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    while sqlx::query_scalar::<_, i64>(busy).fetch_one(&mut conn).await.unwrap() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_consistent!(conn, answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_has_its_event_on_sqlite_whenever_the_server_is_killed() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let answered = kill_while_writing(|| Setup::new().folder(folder.path()).start()).await;
    let file = SqliteConnectOptions::new().filename(folder.path().join("keyward.db"));
    let mut conn: SqliteConnection = file.connect().await.unwrap();
    assert_consistent!(conn, answered);
}
