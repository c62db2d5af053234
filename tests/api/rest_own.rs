//! `/api/v1/keys`: making a key, and what a key does with itself.

use serde_json::{Value, json};

use crate::support::{
    Reply, Server, Setup, reply,
    reply::{names, now_ms},
    server::ROOT,
};

const OWN: &str = "/api/v1/keys";
const RECORD: [&str; 12] = [
    "id",
    "prefix",
    "name",
    "scopes",
    "status",
    "created",
    "expires",
    "lastUsed",
    "webhook",
    "orgId",
    "instanceId",
    "environment",
];

async fn with(server: &Server, method: &str, key: &str, body: Value) -> Reply {
    let mut request = server.rest(method, OWN).bearer_auth(key);
    if !body.is_null() {
        request = request.json(&body);
    }
    reply(request).await
}

async fn made(server: &Server, bearer: Option<&str>, body: Value) -> Value {
    let mut request = server.rest("POST", OWN).json(&body);
    if let Some(bearer) = bearer {
        request = request.bearer_auth(bearer);
    }
    reply(request).await.good(201)
}

fn secret(made: &Value) -> &str {
    made["key"].as_str().unwrap()
}

#[tokio::test]
async fn the_response_to_a_creation_has_exactly_these_fields() {
    let server = Setup::new().ready("noro").start();
    let plain = made(&server, None, json!({})).await;
    assert_eq!(names(&plain), ["key", "id", "prefix", "expires"]);
    assert!(plain["id"].as_str().unwrap().starts_with("key_"));
    let hooked = made(&server, None, json!({"webhook": "https://e.example/h"})).await;
    assert_eq!(names(&hooked), ["key", "id", "prefix", "expires", "webhookSecret"]);
    // This keyspace has no default expiry.
    let server = Setup::new().start();
    assert_eq!(made(&server, Some(ROOT), json!({})).await["expires"], Value::Null);
}

#[tokio::test]
async fn a_record_has_every_field_and_unset_ones_are_null() {
    let server = Setup::new().start();
    let before = now_ms();
    let plain = made(&server, Some(ROOT), json!({})).await;
    let record = with(&server, "GET", secret(&plain), Value::Null).await.good(200);
    assert_eq!(names(&record), RECORD);
    for name in ["name", "expires", "webhook", "orgId", "instanceId", "environment"] {
        assert_eq!(record[name], Value::Null, "{name}");
    }
    assert_eq!((&record["scopes"], &record["status"]), (&json!([]), &json!("active")));
    assert!((before..=now_ms()).contains(&record["created"].as_i64().unwrap()));
    let body = json!({
        "name": "all", "scopes": ["b", "a", "b"], "orgId": "Acme", "instanceId": "eu-1", "environment": "prod",
        "webhook": "https://e.example/h", "expiresInDays": 2, "metadata": {"k": "v"}, "keyspace": "default",
    });
    let full = made(&server, Some(ROOT), body).await;
    let record = with(&server, "GET", secret(&full), Value::Null).await.good(200);
    assert_eq!(names(&record), RECORD);
    for (name, value) in [
        ("name", json!("all")),
        ("scopes", json!(["b", "a"])),
        ("orgId", json!("Acme")),
        ("instanceId", json!("eu-1")),
        ("environment", json!("prod")),
        ("webhook", json!("https://e.example/h")),
        ("expires", full["expires"].clone()),
        ("prefix", full["prefix"].clone()),
    ] {
        assert_eq!(record[name], value, "{name}");
    }
}

#[tokio::test]
async fn any_key_of_any_keyspace_reads_its_own_record() {
    let server = Setup::new().ready("all").start();
    for body in [
        json!({"name": "n", "keyspace": "norrix", "orgId": "o"}),
        json!({"name": "n", "keyspace": "noro"}),
        json!({"name": "n", "keyspace": "keyward"}),
        json!({"name": "n", "keyspace": "keyward", "scopes": ["root"]}),
    ] {
        let made = server.create(body.clone()).await;
        let record = with(&server, "GET", secret(&made), Value::Null).await.good(200);
        assert_eq!((names(&record).as_slice(), &record["id"]), (&RECORD[..], &made["id"]), "{body}");
    }
    // The root credential has no record.
    with(&server, "GET", ROOT, Value::Null).await.refused(403, "forbidden");
}

#[tokio::test]
async fn a_keys_record_shows_its_last_use() {
    let server = Setup::new().start();
    let made = made(&server, Some(ROOT), json!({})).await;
    let used = now_ms();
    with(&server, "GET", secret(&made), Value::Null).await.good(200);
    let shown = crate::support::reply::until("the use shows", async || {
        with(&server, "GET", secret(&made), Value::Null).await.good(200)["lastUsed"].as_i64()
    })
    .await;
    assert!((used..=now_ms()).contains(&shown));
}

#[tokio::test]
async fn a_revoked_key_gets_200_for_a_repeated_delete_and_401_otherwise() {
    let server = Setup::new().ready("noro").start();
    let made = made(&server, None, json!({})).await;
    for _ in 0..3 {
        assert_eq!(with(&server, "DELETE", secret(&made), Value::Null).await.good(200), json!({"revoked": true}));
    }
    with(&server, "GET", secret(&made), Value::Null).await.refused(401, "revoked");
    with(&server, "PATCH", secret(&made), json!({"webhook": ""})).await.refused(401, "revoked");
    with(&server, "POST", secret(&made), json!({})).await.refused(401, "revoked");
    let path = format!("/api/api-keys/{}", made["id"].as_str().unwrap());
    let item = reply(server.rest("GET", &path).bearer_auth(ROOT)).await.good(200);
    assert_eq!(item["status"], "revoked");
    assert_eq!(item["createdBy"], "public");
}

#[tokio::test]
async fn a_repeated_delete_does_not_change_the_first_revocation() {
    let server = Setup::new().ready("noro").start();
    let made = made(&server, None, json!({})).await;
    let path = format!("/api/api-keys/{}", made["id"].as_str().unwrap());
    let item = async || reply(server.rest("GET", &path).bearer_auth(ROOT)).await.good(200);
    with(&server, "DELETE", secret(&made), Value::Null).await.good(200);
    let first = item().await;
    with(&server, "DELETE", secret(&made), Value::Null).await.good(200);
    reply(server.rest("DELETE", &path).bearer_auth(ROOT)).await.good(200);
    assert_eq!(item().await["revokedAt"], first["revokedAt"]);
}

/// Attack: with a leaked key, revoke it or redirect its notifications.
#[tokio::test]
async fn without_self_service_a_key_can_only_read_its_record() {
    let server = Setup::new().ready("all").start();
    for body in [
        json!({"name": "n", "keyspace": "norrix", "orgId": "o", "scopes": ["admin"]}),
        json!({
            "name": "n", "keyspace": "keyward", "scopes": ["verify"],
        }),
    ] {
        let made = server.create(body).await;
        with(&server, "DELETE", secret(&made), Value::Null).await.refused(403, "forbidden");
        for body in [json!({"webhook": ""}), json!({"webhook": "https://e.example/"}), json!({"nonsense": 1})] {
            with(&server, "PATCH", secret(&made), body).await.refused(403, "forbidden");
        }
        with(&server, "GET", secret(&made), Value::Null).await.good(200);
    }
}

#[tokio::test]
async fn the_webhook_secret_is_shown_when_a_url_is_set_for_the_first_time() {
    let server = Setup::new().ready("noro").start();
    let made = made(&server, None, json!({})).await;
    let patch = async |url: &str| with(&server, "PATCH", secret(&made), json!({ "webhook": url })).await.good(200);
    assert_eq!(names(&patch("").await), RECORD, "removing none is nothing");
    let first = patch("https://e.example/1").await;
    assert_eq!(names(&first), [&RECORD[..], &["webhookSecret"]].concat());
    let second = patch("https://e.example/2").await;
    assert_eq!((names(&second).as_slice(), &second["webhook"]), (&RECORD[..], &json!("https://e.example/2")));
    assert_eq!(patch("").await["webhook"], Value::Null);
    assert_eq!(names(&patch("https://e.example/3").await), RECORD);
    for bad in [json!({}), json!({"webhook": 1}), json!({"webhook": "http://e.example"}), json!({"webhook": "x"})] {
        with(&server, "PATCH", secret(&made), bad).await.bad(&["webhook"]);
    }
}

#[tokio::test]
async fn without_a_keyspace_the_only_one_or_the_default_is_used() {
    let server = Setup::new().ready("all").start();
    assert!(secret(&made(&server, Some(ROOT), json!({})).await).starts_with("noro_"));
    let norrix = made(&server, Some(ROOT), json!({"keyspace": "norrix", "orgId": "o"})).await;
    assert!(secret(&norrix).starts_with("nrx_"));
    // The management route has no default: with several keyspaces one must be named.
    let request = server.rest("POST", "/api/api-keys").bearer_auth(ROOT).json(&json!({"name": "n"}));
    reply(request).await.bad(&["keyspace"]);
    let server = Setup::new().ready("nora").start();
    let body = json!({"orgId": "o", "instanceId": "i", "environment": "production"});
    assert!(secret(&made(&server, Some(ROOT), body).await).starts_with("sk_live_"));
}

/// An admin key creates keys in its own keyspace, whatever the default of the route is.
#[tokio::test]
async fn an_admin_key_creates_keys_of_its_own_organization_on_this_route_too() {
    let server = Setup::new().ready("all").start();
    let body = json!({"name": "a", "keyspace": "norrix", "orgId": "o", "scopes": ["admin"]});
    let admin = server.create(body).await;
    let own = made(&server, Some(secret(&admin)), json!({})).await;
    let record = with(&server, "GET", secret(&own), Value::Null).await.good(200);
    assert_eq!((&record["orgId"], secret(&own).starts_with("nrx_")), (&json!("o"), true));
    with(&server, "POST", secret(&admin), json!({"keyspace": "nora"})).await.refused(403, "forbidden");
    with(&server, "POST", secret(&admin), json!({"orgId": "other"})).await.refused(403, "forbidden");
}

#[tokio::test]
async fn creation_needs_a_credential_unless_the_keyspace_is_public() {
    let server = Setup::new().ready("norrix").start();
    let body = json!({"orgId": "o"});
    let message = reply(server.rest("POST", OWN).json(&body)).await.refused(401, "missing_credential");
    assert_eq!(message, "No authentication provided");
    let build = server.create(json!({"name": "b", "orgId": "o", "scopes": ["build"]})).await;
    let message = with(&server, "POST", secret(&build), body).await.refused(403, "insufficient_scope");
    assert_eq!(message, "API key does not have 'admin' scope");
    let service = server.create(json!({"name": "s", "keyspace": "keyward"})).await;
    with(&server, "POST", secret(&service), json!({"orgId": "o"})).await.refused(403, "forbidden");
}
