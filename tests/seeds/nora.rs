//! Nora, "Authentication: how X-API-Key binds to organization and instance".
//!
//! | statement | test |
//! |---|---|
//! | every endpoint authenticates with the single header `X-API-Key` | `the_key_is_read_from_x_api_key_alone` |
//! | no bearer tokens, cookies, organization or instance headers | `other_headers_have_no_effect` |
//! | `cp-*` headers are ignored | the same |
//! | every key is a tuple of organization and instance | `a_key_has_its_organization_and_instance` |
//! | no way to call a different organization with the same key | `a_key_is_bound_to_one_organization_and_one_instance` |
//! | sandbox keys are `sk_test_…`, production keys `sk_live_…` | `the_environment_chooses_the_prefix` |
//! | the wrong environment's key is always a 401 | `a_key_of_the_other_environment_is_401_at_either_host` |
//! | the prefix is informational; the look-up on the server decides | `the_record_decides_not_the_prefix` |
//! | rotation: create, swap, verify, revoke | `a_key_is_rotated_by_creating_a_second_one` |
//! | revoked keys return 401 with a machine-readable code | the same |
//! | "never valid" can be told from "revoked" | `codes_distinguish_never_valid_from_revoked` |
//! | the secret is displayed once and not stored | `the_secret_is_displayed_at_creation_only`; `tests/api/operation.rs` looks into the database |
//! | never embed keys in client-side code | `pages_of_other_origins_are_not_allowed` |
//! | create a key in the dashboard, by a dated name | later: sessions; its call is in `a_key_is_rotated_by_creating_a_second_one` |
//! | /v2 endpoints | later: gateways; until then the product asks Verify |

use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};

use crate::support::{Reply, Server, Setup, reply, server::ROOT};

const KEYS: &str = "/api/v1/keys";

fn nora() -> Server {
    Setup::new().ready("nora").start()
}

fn host(environment: &str) -> Setup {
    Setup::new().ready("nora").env("KEYWARD_HTTP_ENVIRONMENT", environment)
}

async fn key(server: &Server, environment: &str) -> Value {
    let body = json!({
        "name": "backend-2026-04", "orgId": "org_1", "instanceId": "inst_1", "environment": environment,
    });
    server.create(body).await
}

fn secret(key: &Value) -> &str {
    key["key"].as_str().unwrap()
}

async fn own(server: &Server, key: &Value) -> Reply {
    reply(server.rest("GET", KEYS).header("x-api-key", secret(key))).await
}

#[tokio::test]
async fn the_key_is_read_from_x_api_key_alone() {
    let server = nora();
    let made = key(&server, "sandbox").await;
    assert_eq!(own(&server, &made).await.good(200)["id"], made["id"]);
    let request = server.rest("GET", KEYS).bearer_auth(secret(&made));
    assert_eq!(reply(request).await.refused(401, "missing_credential"), "No authentication provided");
    reply(server.rest("GET", KEYS)).await.refused(401, "missing_credential");
}

/// A caller that could move its key to another organization by a header would read that organization's data.
#[tokio::test]
async fn other_headers_have_no_effect() {
    let server = nora();
    let (made, other) = (key(&server, "sandbox").await, key(&server, "production").await);
    let plain = own(&server, &made).await.good(200);
    for (name, value) in [
        ("authorization", format!("Bearer {}", secret(&other))),
        ("authorization", "Bearer some-oauth-token".to_owned()),
        ("authorization", "Basic dXNlcjpwYXNz".to_owned()),
        ("cookie", "session=abc".to_owned()),
        ("cp-organization-id", "org_2".to_owned()),
        ("cp-instance-id", "inst_2".to_owned()),
        ("x-org-id", "org_2".to_owned()),
        ("x-instance-id", "inst_2".to_owned()),
    ] {
        let request = server.rest("GET", KEYS).header("x-api-key", secret(&made)).header(name, value);
        let mut answer = reply(request).await.good(200);
        answer["lastUsed"] = plain["lastUsed"].clone();
        assert_eq!(answer, plain, "{name}");
    }
    // They do not replace the key either.
    let request = server.rest("GET", KEYS).header("cp-organization-id", "org_1").bearer_auth("some-oauth-token");
    reply(request).await.refused(401, "malformed");
}

#[tokio::test]
async fn a_key_has_its_organization_and_instance() {
    let server = nora();
    let made = key(&server, "sandbox").await;
    let record = own(&server, &made).await.good(200);
    assert_eq!((&record["orgId"], &record["instanceId"]), (&json!("org_1"), &json!("inst_1")));
    assert_eq!(record["environment"], "sandbox");
    let (_, verdict) = server.call("POST", "/api/v1/verify", Some(ROOT), json!({"secret": made["key"]})).await;
    assert_eq!((&verdict["organization"], &verdict["instance"]), (&json!("org_1"), &json!("inst_1")));
}

#[tokio::test]
async fn a_key_is_bound_to_one_organization_and_one_instance() {
    let server = nora();
    let made = key(&server, "sandbox").await;
    for (field, value, code) in
        [("organization", "org_2", "WRONG_ORGANIZATION"), ("instance", "inst_2", "WRONG_INSTANCE")]
    {
        let body = json!({"secret": made["key"], field: value});
        let (_, verdict) = server.call("POST", "/api/v1/verify", Some(ROOT), body).await;
        assert_eq!(verdict["code"], code);
    }
    let incomplete = json!({"name": "x", "environment": "sandbox"});
    let request = server.rest("POST", "/api/api-keys").bearer_auth(ROOT).json(&incomplete);
    reply(request).await.bad(&["orgId", "instanceId"]);
}

#[tokio::test]
async fn the_environment_chooses_the_prefix() {
    let server = nora();
    for (environment, prefix) in [("sandbox", "sk_test_"), ("production", "sk_live_")] {
        let made = key(&server, environment).await;
        let body = secret(&made).strip_prefix(prefix).unwrap();
        assert_eq!(body.len(), 32);
        assert!(body.bytes().all(|c| c.is_ascii_alphanumeric()), "{body}");
        assert_eq!(made["prefix"], secret(&made)[..12]);
    }
    for environment in ["staging", "Sandbox", ""] {
        let body = json!({"name": "x", "orgId": "o", "instanceId": "i", "environment": environment});
        let request = server.rest("POST", "/api/api-keys").bearer_auth(ROOT).json(&body);
        reply(request).await.bad(&["environment"]);
    }
}

#[tokio::test]
async fn a_key_of_the_other_environment_is_401_at_either_host() {
    for (here, there) in [("production", "sandbox"), ("sandbox", "production")] {
        let server = host(here).start();
        let (right, wrong) = (key(&server, here).await, key(&server, there).await);
        own(&server, &right).await.good(200);
        let message = own(&server, &wrong).await.refused(401, "wrong_environment");
        assert_eq!(message, "Invalid or expired API key");
    }
}

/// A key whose record is moved to another environment keeps its old prefix. Trusting the prefix would let it into the
/// environment that it left.
#[tokio::test]
async fn the_record_decides_not_the_prefix() {
    let mut server = host("production").start();
    let folder = tempfile::tempdir().unwrap();
    let made = key(&server, "sandbox").await;
    assert!(secret(&made).starts_with("sk_test_"));
    own(&server, &made).await.refused(401, "wrong_environment");
    assert_eq!(server.stop(), Some(0));
    let file = folder.path().join("keyward.db");
    std::fs::copy(server.folder().join("keyward.db"), &file).unwrap();
    let mut database = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
    let changed = sqlx::query("UPDATE keyward_keys SET environment = 'production' WHERE environment = 'sandbox'");
    assert_eq!(changed.execute(&mut database).await.unwrap().rows_affected(), 1);
    database.close().await.unwrap();

    let server = host("production").folder(folder.path()).start();
    let record = own(&server, &made).await.good(200);
    assert_eq!((&record["environment"], &record["prefix"]), (&json!("production"), &made["prefix"]));
    let body = json!({"secret": made["key"], "environment": "sandbox"});
    let (_, verdict) = server.call("POST", "/api/v1/verify", Some(ROOT), body).await;
    assert_eq!(verdict["code"], "WRONG_ENVIRONMENT");
}

#[tokio::test]
async fn a_key_is_rotated_by_creating_a_second_one() {
    let server = nora();
    let (old, new) = (key(&server, "production").await, key(&server, "production").await);
    own(&server, &old).await.good(200);
    own(&server, &new).await.good(200);
    let path = format!("/api/api-keys/{}", old["id"].as_str().unwrap());
    assert_eq!(reply(server.rest("DELETE", &path).bearer_auth(ROOT)).await.good(200)["status"], "revoked");
    own(&server, &old).await.refused(401, "revoked");
    own(&server, &new).await.good(200);
}

#[tokio::test]
async fn codes_distinguish_never_valid_from_revoked() {
    let server = nora();
    let made = key(&server, "production").await;
    let path = format!("/api/api-keys/{}", made["id"].as_str().unwrap());
    reply(server.rest("DELETE", &path).bearer_auth(ROOT)).await.good(200);
    own(&server, &made).await.refused(401, "revoked");
    for never in ["sk_live_0123456789abcdefghijklmnopqrstuv", "sk_live_", "some-text"] {
        let request = server.rest("GET", KEYS).header("x-api-key", never);
        assert_eq!(reply(request).await.refused(401, "malformed"), "Invalid or expired API key");
    }
}

#[tokio::test]
async fn the_secret_is_displayed_at_creation_only() {
    let server = nora();
    let made = key(&server, "production").await;
    let path = format!("/api/api-keys/{}", made["id"].as_str().unwrap());
    for path in ["/api/api-keys", &path] {
        let answer = reply(server.rest("GET", path).bearer_auth(ROOT)).await;
        answer.good(200);
        assert!(!answer.text.contains(&secret(&made)[12..]));
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_not_allowed() {
    let server = nora();
    let preflight = server
        .rest("OPTIONS", KEYS)
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "GET")
        .header("access-control-request-headers", "x-api-key");
    reply(preflight).await.refused(405, "method_not_allowed");
    let made = key(&server, "sandbox").await;
    let request = server.rest("GET", KEYS).header("x-api-key", secret(&made)).header("origin", "https://evil.example");
    // Every response of these tests is checked for CORS headers.
    reply(request).await.good(200);
}
