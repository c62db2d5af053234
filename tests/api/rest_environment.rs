//! A host of one environment: `http.environment`, which `KEYWARD_HTTP_ENVIRONMENT` overrides.

use serde_json::{Value, json};

use crate::support::{Reply, Server, Setup, reply, server::ROOT};

const OWN: &str = "/api/v1/keys";

/// A keyspace that requires an environment.
const CONFIG: &str = r#"
[[keyspace]]
name = "x"
prefix = { sandbox = "x_test_", production = "x_live_" }
secret = { encoding = "base64url", bytes = 32 }
credential = "any"
scopes = ["use", "admin"]
admin_scope = "admin"
default_scopes = ["use"]
self_service = true
require = ["organization", "environment"]

[[keyspace]]
name = "free"
prefix = "free_"
secret = { encoding = "base64url", bytes = 32 }
"#;

fn production() -> Server {
    Setup::new().config(CONFIG).and("[http]\nenvironment = \"production\"").start()
}

async fn admin(server: &Server, environment: &str) -> String {
    let body = json!({
        "name": "n", "keyspace": "x", "orgId": "o", "environment": environment, "scopes": ["admin"],
    });
    server.create(body).await["key"].as_str().unwrap().to_owned()
}

async fn with(server: &Server, method: &str, path: &str, key: &str, body: Value) -> Reply {
    reply(server.rest(method, path).bearer_auth(key).json(&body)).await
}

/// Attack: use a leaked sandbox key at the production host.
#[tokio::test]
async fn a_key_of_another_environment_is_401_on_every_route() {
    let server = production();
    let (right, wrong) = (admin(&server, "production").await, admin(&server, "sandbox").await);
    for (method, path) in [
        ("GET", OWN),
        ("DELETE", OWN),
        ("PATCH", OWN),
        ("POST", OWN),
        ("GET", "/api/api-keys"),
        ("POST", "/api/api-keys"),
        ("DELETE", "/api/api-keys/none"),
        ("POST", "/api/v1/verify"),
    ] {
        let answer = reply(server.rest(method, path).bearer_auth(&wrong)).await;
        assert_eq!(answer.refused(401, "wrong_environment"), "Invalid or expired API key", "{method} {path}");
    }
    reply(server.rest("GET", OWN).bearer_auth(&right)).await.good(200);
}

#[tokio::test]
async fn a_key_created_without_an_environment_gets_that_of_the_host() {
    let server = production();
    let body = json!({"name": "n", "keyspace": "x", "orgId": "o"});
    for path in [OWN, "/api/api-keys"] {
        let made = with(&server, "POST", path, ROOT, body.clone()).await.good(201);
        assert!(made["key"].as_str().unwrap().starts_with("x_live_"), "{made}");
    }
    // In a keyspace that requires none, the key has none.
    let made = with(&server, "POST", "/api/api-keys", ROOT, json!({"name": "n", "keyspace": "free"})).await.good(201);
    assert_eq!(made["environment"], Value::Null);
    let body = json!({"name": "n", "keyspace": "free", "environment": "sandbox"});
    let free = with(&server, "POST", "/api/api-keys", ROOT, body).await.good(201);
    let own = reply(server.rest("GET", OWN).bearer_auth(free["key"].as_str().unwrap())).await.good(200);
    assert_eq!(own["environment"], "sandbox", "nor is it bound by the host's");
}

#[tokio::test]
async fn only_an_operator_may_name_another_environment_than_the_hosts() {
    let server = production();
    let admin = admin(&server, "production").await;
    for path in [OWN, "/api/api-keys"] {
        let body = |environment: &str| json!({"name": "n", "keyspace": "x", "environment": environment});
        with(&server, "POST", path, &admin, body("production")).await.good(201);
        with(&server, "POST", path, &admin, body("sandbox")).await.bad(&["environment"]);
        let mut other = body("sandbox");
        other["orgId"] = "o".into();
        let made = with(&server, "POST", path, ROOT, other).await.good(201);
        assert!(made["key"].as_str().unwrap().starts_with("x_test_"), "{made}");
    }
}

#[tokio::test]
async fn the_hosts_environment_applies_neither_to_verify_nor_to_operators() {
    let server = production();
    let wrong = admin(&server, "sandbox").await;
    let verdict = with(&server, "POST", "/api/v1/verify", ROOT, json!({"secret": wrong})).await.good(200);
    assert_eq!((&verdict["code"], &verdict["environment"]), (&json!("VALID"), &json!("sandbox")));
    let body = json!({"secret": wrong, "environment": "production"});
    let verdict = with(&server, "POST", "/api/v1/verify", ROOT, body).await.good(200);
    assert_eq!(verdict["code"], "WRONG_ENVIRONMENT");
    let operator = server.create(json!({"name": "op", "keyspace": "keyward", "scopes": ["root"]})).await;
    let operator = operator["key"].as_str().unwrap();
    let listed = reply(server.rest("GET", "/api/api-keys?environment=sandbox").bearer_auth(operator)).await.good(200);
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_revoked_key_of_another_environment_is_answered_revoked() {
    let server = production();
    let body = json!({"name": "n", "keyspace": "x", "orgId": "o", "environment": "sandbox"});
    let made = server.create(body).await;
    let path = format!("/api/api-keys/{}", made["id"].as_str().unwrap());
    reply(server.rest("DELETE", &path).bearer_auth(ROOT)).await.good(200);
    reply(server.rest("GET", OWN).bearer_auth(made["key"].as_str().unwrap())).await.refused(401, "revoked");
}

#[tokio::test]
async fn the_environment_variable_overrides_the_file() {
    let server = Setup::new()
        .config(CONFIG)
        .and("[http]\nenvironment = \"production\"")
        .env("KEYWARD_HTTP_ENVIRONMENT", "sandbox")
        .start();
    let (sandbox, production) = (admin(&server, "sandbox").await, admin(&server, "production").await);
    reply(server.rest("GET", OWN).bearer_auth(sandbox)).await.good(200);
    reply(server.rest("GET", OWN).bearer_auth(production)).await.refused(401, "wrong_environment");
}

#[tokio::test]
async fn a_host_without_an_environment_accepts_keys_of_all() {
    let server = Setup::new().config(CONFIG).start();
    for environment in ["sandbox", "production"] {
        let key = admin(&server, environment).await;
        reply(server.rest("GET", OWN).bearer_auth(key)).await.good(200);
    }
    let body = json!({"name": "n", "keyspace": "x", "orgId": "o"});
    with(&server, "POST", "/api/api-keys", ROOT, body).await.bad(&["environment"]);
}
