//! Places where no secret may appear: database, log, metrics, and every response but that of its creation.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _, SqliteConnection};

use crate::support::{
    Server, Setup, reply,
    reply::{until, within},
    server::ROOT,
};

/// Every file under a folder, as bytes.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    found
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Sends a secret correctly, and in every place where a client may put it by mistake.
async fn misuse(server: &Server, secret: &str) {
    let wrong = |name: &str| json!({ name: secret });
    for (method, path, body) in [
        ("GET", "/api/v1/keys".to_owned(), Value::Null),
        ("GET", format!("/api/v1/keys?key={secret}"), Value::Null),
        ("GET", format!("/api/api-keys?cursor={secret}"), Value::Null),
        ("GET", format!("/api/api-keys?{secret}=1"), Value::Null),
        ("GET", format!("/api/api-keys/{secret}"), Value::Null),
        ("DELETE", format!("/api/api-keys/{secret}"), Value::Null),
        ("GET", format!("/{secret}"), Value::Null),
        ("POST", "/api/v1/verify".to_owned(), wrong("secret")),
        ("POST", "/api/v1/verify".to_owned(), wrong("key")),
        ("POST", "/api/v1/verify".to_owned(), json!({"secret": secret, "organization": secret})),
        ("POST", "/api/v1/keys".to_owned(), wrong("expiresAt")),
        ("POST", "/api/v1/keys".to_owned(), wrong(secret)),
        ("POST", "/api/api-keys".to_owned(), wrong("keyspace")),
        ("POST", "/api/api-keys".to_owned(), wrong("scopes")),
    ] {
        for (header, value) in [
            ("authorization", format!("Bearer {ROOT}")),
            ("authorization", format!("Bearer {secret}")),
            ("authorization", format!("Basic {secret}")),
            ("authorization", format!("Bearer {secret}x")),
            ("x-api-key", secret.to_owned()),
            ("cookie", format!("key={secret}")),
        ] {
            let mut request = server.rest(method, &path).header(header, value);
            if !body.is_null() {
                request = request.json(&body);
            }
            let answer = reply(request).await;
            // An error repeats the name of an unknown field to the client that sent it; nothing else repeats a secret.
            let named = answer.text.contains("unknown");
            assert!(named || !answer.text.contains(&secret[12..]), "{method} {path}: {}", answer.text);
            assert!(answer.headers.iter().all(|(_, value)| !holds(value.as_bytes(), &secret[12..])), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn no_secret_is_in_the_database_the_log_or_the_metrics() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/all.toml")).unwrap();
    let text = text.replace("[http]\n", "[http]\npublic_create_limit = { limit = 10000, window = \"1s\" }\n");
    let mut server = Setup::new().config(&text).env("KEYWARD_LOG", "trace").start();
    let mut secrets = vec![ROOT.to_owned()];
    for body in [
        json!({"name": "a", "keyspace": "norrix", "orgId": "o", "scopes": ["admin"]}),
        json!({"name": "b", "keyspace": "norrix", "orgId": "o"}),
        json!({"name": "c", "keyspace": "noro", "webhook": "https://e.example/h"}),
        json!({"name": "d", "keyspace": "nora", "orgId": "o", "instanceId": "i", "environment": "sandbox"}),
        json!({"name": "e", "keyspace": "keyward", "scopes": ["root"]}),
        json!({"name": "f", "keyspace": "keyward"}),
    ] {
        let made = server.create(body).await;
        secrets.extend(made["webhookSecret"].as_str().map(str::to_owned));
        let secret = made["key"].as_str().unwrap().to_owned();
        misuse(&server, &secret).await;
        let path = format!("/api/api-keys/{}", made["id"].as_str().unwrap());
        reply(server.rest("PATCH", &path).bearer_auth(ROOT).json(&json!({"webhook": secret}))).await.bad(&["webhook"]);
        secrets.push(secret);
    }
    let metrics = reply(server.rest("GET", "/metrics")).await.text;
    let while_running = files(server.folder());
    assert_eq!(server.stop(), Some(0));
    let places = while_running.into_iter().chain(files(server.folder())).chain([
        ("the log".to_owned(), server.log().into_bytes()),
        ("standard output".to_owned(), server.output().into_bytes()),
        ("the metrics".to_owned(), metrics.into_bytes()),
    ]);
    for (place, bytes) in places {
        for secret in &secrets {
            // The part after the 12 displayed characters. Nothing is displayed of root credentials and webhook secrets.
            let hidden = if secret == ROOT || secret.starts_with("whsec_") { secret } else { &secret[12..] };
            assert!(!holds(&bytes, hidden), "{place} holds a secret");
        }
    }
}

/// Of a secret, the database holds only the displayed prefix and the digest.
#[tokio::test]
async fn the_database_has_the_digest_of_a_secret() {
    use sha2::Digest as _;
    let mut server = Setup::new().start();
    let made = server.create(json!({"name": "n"})).await;
    server.stop();
    let row = the_row(&server, "SELECT digest, prefix FROM keyward_keys").await;
    let secret = made["key"].as_str().unwrap();
    assert_eq!(row.get::<Vec<u8>, _>("digest"), sha2::Sha256::digest(secret).to_vec());
    assert_eq!(row.get::<String, _>("prefix"), secret[..12]);
}

async fn the_row(server: &Server, sql: &'static str) -> sqlx::sqlite::SqliteRow {
    let url = format!("sqlite://{}", server.folder().join("keyward.db").display());
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    let row = sqlx::query(sql).fetch_one(&mut database).await.unwrap();
    database.close().await.unwrap();
    row
}

/// If a use changed the key's row, every replica would see a change, and every Verify would cost a write.
#[tokio::test]
async fn a_use_is_visible_within_two_seconds_and_does_not_change_the_keys_row() {
    let mut server = Setup::new().start();
    let mut keys = 0;
    within(Duration::from_secs(2), "the last use shows", async || {
        keys += 1;
        let made = server.create(json!({"name": "n"})).await;
        for _ in 0..50 {
            let (_, verdict) = server.call("POST", "/api/v1/verify", Some(ROOT), json!({"secret": made["key"]})).await;
            assert_eq!(verdict["code"], "VALID");
        }
        let used = std::time::Instant::now();
        let path = format!("/api/api-keys/{}", made["id"].as_str().unwrap());
        until("the use shows", async || {
            let shown = reply(server.rest("GET", &path).bearer_auth(ROOT)).await.good(200);
            shown["lastUsedAt"].as_str().map(str::to_owned)
        })
        .await;
        used.elapsed()
    })
    .await;
    server.stop();
    let sql = "SELECT sum(revision) AS revisions, (SELECT sum(count) FROM keyward_usage) AS uses FROM keyward_keys";
    let row = the_row(&server, sql).await;
    assert_eq!((row.get::<i64, _>("revisions"), row.get::<i64, _>("uses")), (0, 50 * keys));
}
