//! `KEYWARD_MASTER_KEY` as a list: the first key signs, all keys verify, and secrets of a removed key become invalid.

use std::path::Path;

use keyward::domain::{
    master_keys::{MasterKey, MasterKeys},
    secret::issued_by,
};
use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};

use crate::support::{Reply, Server, Setup, reply, server::ROOT};

fn list(keys: &[u8]) -> String {
    keys.iter().map(|byte| data_encoding::BASE64.encode(&[*byte; 32])).collect::<Vec<_>>().join(",")
}

fn setup(folder: &Path, keys: &[u8]) -> Setup {
    Setup::new().ready("noro").folder(folder).env("KEYWARD_MASTER_KEY", &list(keys))
}

fn refused(setup: Setup) {
    let Err(log) = setup.try_start() else { panic!("it started") };
    assert!(log.contains("KEYWARD_MASTER_KEY"), "{log}");
}

async fn make(server: &Server, name: &str) -> Value {
    server.create(json!({"name": name, "webhook": "https://hooks.example/"})).await
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

async fn code(server: &Server, secret: &str) -> String {
    let (status, verdict) = server.call("POST", "/api/v1/verify", Some(ROOT), json!({"secret": secret})).await;
    assert_eq!(status, 200);
    text(&verdict["code"]).to_owned()
}

async fn page(server: &Server, cursor: &str) -> Reply {
    reply(server.rest("GET", &format!("/api/api-keys?limit=1&cursor={cursor}")).bearer_auth(ROOT)).await
}

fn made_by(secret: &str, key: u8) -> bool {
    issued_by(secret, &MasterKeys::derive(&MasterKey::new([key; 32])))
}

#[tokio::test]
async fn the_first_key_signs_and_every_key_verifies_until_it_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = setup(folder.path(), &[1]).start();
    let old = make(&server, "old").await;
    make(&server, "other").await;
    let service = server.create(json!({"keyspace": "keyward", "name": "gateway"})).await;
    let cursor = text(&page(&server, "").await.good(200)["nextCursor"]).to_owned();
    server.stop();

    // First, every replica is given the next key for verification.
    let mut server = setup(folder.path(), &[1, 2]).start();
    assert!(made_by(text(&make(&server, "still").await["key"]), 1));
    assert_eq!(code(&server, text(&old["key"])).await, "VALID");
    server.stop();

    let mut server = setup(folder.path(), &[2, 1]).start();
    assert_eq!(code(&server, text(&old["key"])).await, "VALID");
    page(&server, &cursor).await.good(200);
    let new = make(&server, "new").await;
    assert!(made_by(text(&new["key"]), 2) && !made_by(text(&new["key"]), 1));
    let verdict =
        server.call("POST", "/api/v1/verify", Some(text(&service["key"])), json!({"secret": new["key"]})).await;
    assert_eq!((verdict.0, &verdict.1["code"]), (200, &json!("VALID")));
    // A new URL keeps the signing secret of the old key, so no secret is returned.
    let path = format!("/api/api-keys/{}", text(&old["id"]));
    let (status, rehooked) = server.call("PATCH", &path, Some(ROOT), json!({"webhook": "https://two.example/"})).await;
    assert_eq!((status, rehooked.get("webhookSecret")), (200, None));
    server.stop();

    // The database records the new key: from now on it must be listed, but the order may be reversed.
    refused(setup(folder.path(), &[1]));
    refused(setup(folder.path(), &[1, 3]));
    let mut server = setup(folder.path(), &[1, 2]).start();
    for secret in [&old["key"], &new["key"]] {
        assert_eq!(code(&server, text(secret)).await, "VALID");
    }
    assert!(made_by(text(&make(&server, "back").await["key"]), 1));
    server.stop();

    // Without the old key, its secrets are malformed.
    let server = setup(folder.path(), &[2]).start();
    assert_eq!(code(&server, text(&new["key"])).await, "VALID");
    assert_eq!(code(&server, text(&old["key"])).await, "MALFORMED");
    page(&server, &cursor).await.bad(&["cursor"]);
    let (status, refusal) =
        server.call("POST", "/api/v1/verify", Some(text(&service["key"])), json!({"secret": new["key"]})).await;
    assert_eq!((status, &refusal["code"]), (401, &json!("malformed")));
}

async fn setting(folder: &Path) -> Value {
    let url = format!("sqlite://{}", folder.join("keyward.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    let query = sqlx::query_scalar("SELECT value FROM keyward_settings WHERE name = 'installation'");
    let text: String = query.fetch_one(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The migration from a key in the database to one in the environment.
#[tokio::test]
async fn a_key_in_the_database_is_deleted_there_once_another_key_is_first() {
    let folder = tempfile::tempdir().unwrap();
    let kept = || Setup::new().ready("noro").folder(folder.path());
    let mut server = kept().start();
    let old = make(&server, "old").await;
    server.stop();
    let key = text(&setting(folder.path()).await["key"]).to_owned();

    let both = format!("{},{key}", list(&[5]));
    let mut server = kept().env("KEYWARD_MASTER_KEY", &both).start();
    assert_eq!(code(&server, text(&old["key"])).await, "VALID");
    assert!(!server.log().contains(&key) && !server.log().contains(&list(&[5])));
    server.stop();
    assert_eq!(setting(folder.path()).await["key"], Value::Null);
    refused(kept());
    kept().env("KEYWARD_MASTER_KEY", &list(&[5])).start();
}
