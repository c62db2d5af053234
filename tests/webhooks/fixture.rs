//! Servers that may deliver to receivers on this machine, keys with a webhook, and the rows of their deliveries.

use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::support::{Server, Setup, server::ROOT};

/// Settings of a server that may deliver to this machine; `retries` is TOML.
pub fn local(retries: &str) -> String {
    local_within("5s", retries)
}

/// The same with another timeout of an attempt.
pub fn local_within(timeout: &str, retries: &str) -> String {
    format!(
        "[webhooks]\nallow_http = true\nallow_cidrs = [\"127.0.0.0/8\"]\ntimeout = \"{timeout}\"\nretries = {retries}\n"
    )
}

/// A server of the default keyspace that may deliver to this machine.
pub fn server(retries: &str) -> Server {
    Setup::new().config(&local(retries)).delivering().start()
}

/// A key with a webhook.
pub struct Hooked {
    /// The response to its creation.
    pub made: Value,
    pub id: String,
    /// The secret that signs its deliveries.
    pub secret: String,
}

/// Creates a key with a webhook.
pub async fn hooked(server: &Server, url: &str) -> Hooked {
    let made = server.create(json!({"name": "hooked", "webhook": url})).await;
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    Hooked { id: text("id"), secret: text("webhookSecret"), made }
}

/// `PATCH /api/api-keys/{id}`, which must succeed.
pub async fn patch(server: &Server, id: &str, body: Value) -> Value {
    let (status, answer) = server.call("PATCH", &format!("/api/api-keys/{id}"), Some(ROOT), body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// `DELETE /api/api-keys/{id}`, which must succeed.
pub async fn revoke(server: &Server, id: &str) -> Value {
    let (status, answer) = server.call("DELETE", &format!("/api/api-keys/{id}"), Some(ROOT), Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// A row of a delivery.
#[derive(Debug)]
pub struct Row {
    /// The event's type.
    pub kind: String,
    /// Its state.
    pub state: String,
    /// Number of attempts begun.
    pub attempts: i64,
    /// Of the last attempt.
    pub last_status: Option<i64>,
    /// Of the last attempt.
    pub last_error: String,
    /// Of the last attempt.
    pub last_response: String,
}

/// Every delivery of a server on SQLite, in the order of their events.
pub async fn deliveries(server: &Server) -> Vec<Row> {
    let options = SqliteConnectOptions::new().filename(server.folder().join("keyward.db")).read_only(true);
    let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
    let rows = sqlx::query(
        "SELECT e.type AS kind, d.state, d.attempts, d.last_status, d.last_error, d.last_response \
         FROM keyward_deliveries d JOIN keyward_events e ON e.id = d.event_id ORDER BY e.id",
    );
    let rows = rows.fetch_all(&mut conn).await.unwrap();
    let rows = rows.iter().map(|row| Row {
        kind: row.get("kind"),
        state: row.get("state"),
        attempts: row.get("attempts"),
        last_status: row.get("last_status"),
        last_error: row.get("last_error"),
        last_response: row.get("last_response"),
    });
    let rows = rows.collect();
    conn.close().await.unwrap();
    rows
}

/// Waits until the only delivery is in this state.
pub async fn settled(server: &Server, state: &str) -> Row {
    crate::support::reply::until(&format!("the delivery is {state}"), async || {
        let mut rows = deliveries(server).await;
        assert!(rows.len() <= 1, "{rows:#?}");
        rows.pop().filter(|row| row.state == state)
    })
    .await
}
