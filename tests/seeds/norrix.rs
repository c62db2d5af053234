//! Norrix, "API Authentication", "API Keys" and "Authentication".
//!
//! | statement | test |
//! |---|---|
//! | `Authorization: Bearer nrx_…` | `a_key_is_passed_as_bearer_and_in_no_other_way` |
//! | enter a name; select scopes | `a_key_is_created_with_a_name_and_chosen_scopes` |
//! | keys are `nrx_<base64_random_bytes>` | `a_key_has_the_documented_form` |
//! | the first 12 characters are stored for display | the same |
//! | the full key is shown once, at creation | `the_full_key_is_shown_once` |
//! | the full key is hashed for look-up | `tests/api/operation.rs`: no secret is in the database |
//! | new keys include build, submit and update by default | `a_new_key_has_the_three_scopes_by_default` |
//! | scopes limit what a key may do | `a_key_is_valid_for_its_scopes_only` |
//! | admin endpoints need a session or an admin-scoped key | `an_admin_scoped_key_manages_keys_and_another_does_not` |
//! | missing authentication: 401 and its body | `missing_authentication_is_answered_as_documented` |
//! | invalid key: 401 and its body | `an_invalid_key_is_answered_as_documented` |
//! | insufficient permissions: 403 and its body | `a_missing_scope_is_answered_as_documented` |
//! | keys are scoped to the organization they were created in | `a_key_belongs_to_the_organization_that_created_it` |
//! | `orgId` overrides, within what the caller may | `a_caller_can_name_only_its_own_organization` |
//! | separate keys and base URLs for environments | `an_environment_can_be_set_and_asserted` |
//! | optionally set expiration in days | `an_expiration_in_days_is_optional` |
//! | keys without expiration never expire | the same |
//! | expired keys can't authenticate, stay in the list, show "expired" | `an_expired_key_is_refused_and_stays_in_the_list` |
//! | the list shows name, prefix, scopes, last used, expiration, created by | `the_list_shows_what_the_dashboard_needs` |
//! | check `lastUsedAt` | `the_last_use_shows_within_two_seconds` |
//! | a revoked key is invalid immediately and stays in the list as "revoked" | `a_revoked_key_is_invalid_at_once_and_stays_in_the_list` |
//! | any active requests will fail | `norrix_active.rs` |
//! | revoke old keys after confirming new ones work | `a_key_is_rotated_by_creating_a_second_one` |
//! | build-only and deploy keys (least privilege) | `a_key_is_valid_for_its_scopes_only` |
//! | session tokens, cookies; who can revoke; Dashboard → Settings → API Keys; `--org` | `norrix_sessions.rs` |
//! | GET, POST, DELETE /build, /submit; POST /update by scope | later: gateways |
//! | `NORRIX_API_KEY`, `norrix sign-in`, `orgs`, `--dev`, token storage | the product's own CLI, not the service |

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Reply, Server, Setup, reply,
    reply::{now_ms, until, within},
    server::ROOT,
};

const KEYS: &str = "/api/api-keys";

fn norrix() -> Server {
    Setup::new().ready("norrix").start()
}

/// A key of organization `org_abc123` that the operator created.
async fn key(server: &Server, scopes: &[&str]) -> Value {
    server.create(json!({"name": "GitHub Actions", "orgId": "org_abc123", "scopes": scopes})).await
}

async fn as_key(server: &Server, method: &str, path: &str, key: &Value) -> Reply {
    reply(server.rest(method, path).bearer_auth(key["key"].as_str().unwrap())).await
}

/// The check that a Norrix endpoint makes for a request's key.
async fn check(server: &Server, key: &Value, more: Value) -> Value {
    let mut body = json!({"secret": key["key"], "keyspace": "norrix"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (status, verdict) = server.call("POST", "/api/v1/verify", Some(ROOT), body).await;
    assert_eq!(status, 200, "{verdict}");
    verdict
}

#[tokio::test]
async fn a_key_is_passed_as_bearer_and_in_no_other_way() {
    let server = norrix();
    let admin = key(&server, &["admin"]).await;
    as_key(&server, "GET", KEYS, &admin).await.good(200);
    for header in ["x-api-key", "cookie"] {
        let request = server.rest("GET", KEYS).header(header, admin["key"].as_str().unwrap());
        reply(request).await.refused(401, "missing_credential");
    }
}

#[tokio::test]
async fn a_key_is_created_with_a_name_and_chosen_scopes() {
    let server = norrix();
    let made = key(&server, &["submit", "update"]).await;
    assert_eq!((&made["name"], &made["scopes"]), (&json!("GitHub Actions"), &json!(["submit", "update"])));
    let (status, refused) = server.call("POST", KEYS, Some(ROOT), json!({"orgId": "org_abc123"})).await;
    assert_eq!((status, refused["message"].as_str().unwrap()), (400, "name: is required"));
    let body = json!({"name": "x", "orgId": "org_abc123", "scopes": ["deploy"]});
    reply(server.rest("POST", KEYS).bearer_auth(ROOT).json(&body)).await.bad(&["scopes"]);
}

#[tokio::test]
async fn a_key_has_the_documented_form() {
    let server = norrix();
    let made = key(&server, &["build"]).await;
    let secret = made["key"].as_str().unwrap();
    let body = secret.strip_prefix("nrx_").unwrap();
    assert_eq!(body.len(), 48);
    assert!(body.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-')), "{body}");
    assert_eq!(made["prefix"], secret[..12]);
}

#[tokio::test]
async fn the_full_key_is_shown_once() {
    let server = norrix();
    let made = key(&server, &["admin"]).await;
    let path = format!("{KEYS}/{}", made["id"].as_str().unwrap());
    for path in [KEYS, &path, "/api/v1/keys"] {
        let shown = as_key(&server, "GET", path, &made).await;
        shown.good(200);
        assert!(!shown.text.contains(&made["key"].as_str().unwrap()[12..]), "{path}");
    }
}

#[tokio::test]
async fn a_new_key_has_the_three_scopes_by_default() {
    let server = norrix();
    let made = server.create(json!({"name": "Jenkins", "orgId": "org_abc123"})).await;
    assert_eq!(made["scopes"], json!(["build", "submit", "update"]));
}

#[tokio::test]
async fn a_key_is_valid_for_its_scopes_only() {
    let server = norrix();
    let deploy = key(&server, &["submit", "update"]).await;
    assert_eq!(check(&server, &deploy, json!({"requiredScopes": ["submit"]})).await["code"], "VALID");
    assert_eq!(check(&server, &deploy, json!({"requiredScopes": ["update", "submit"]})).await["code"], "VALID");
    assert_eq!(check(&server, &deploy, json!({"requiredScopes": ["build"]})).await["code"], "INSUFFICIENT_SCOPE");
}

#[tokio::test]
async fn an_admin_scoped_key_manages_keys_and_another_does_not() {
    let server = norrix();
    let admin = key(&server, &["admin"]).await;
    let body = json!({"name": "GitLab", "scopes": ["build"]});
    let request = server.rest("POST", KEYS).bearer_auth(admin["key"].as_str().unwrap()).json(&body);
    let made = reply(request).await.good(201);
    assert_eq!(made["orgId"], "org_abc123");
    assert_eq!(made["createdBy"], format!("key:{}", admin["id"].as_str().unwrap()));
    let path = format!("{KEYS}/{}", made["id"].as_str().unwrap());
    as_key(&server, "GET", &path, &admin).await.good(200);
    assert_eq!(as_key(&server, "DELETE", &path, &admin).await.good(200)["status"], "revoked");

    let other = key(&server, &["build", "submit", "update"]).await;
    for (method, path) in [("GET", KEYS), ("POST", KEYS), ("GET", &path), ("DELETE", &path), ("PATCH", &path)] {
        let message = as_key(&server, method, path, &other).await.refused(403, "insufficient_scope");
        assert_eq!(message, "API key does not have 'admin' scope");
    }
}

#[tokio::test]
async fn missing_authentication_is_answered_as_documented() {
    let answer = reply(norrix().rest("GET", KEYS)).await;
    assert_eq!(answer.status, 401);
    let body = json!({
        "error": "Unauthorized", "message": "No authentication provided", "code": "missing_credential",
    });
    assert_eq!(answer.json(), body);
}

#[tokio::test]
async fn an_invalid_key_is_answered_as_documented() {
    let server = norrix();
    for (bearer, code) in [("nrx_your_api_key", "malformed"), ("nonsense", "malformed")] {
        let answer = reply(server.rest("GET", KEYS).bearer_auth(bearer)).await;
        assert_eq!(answer.status, 401);
        let body = json!({"error": "Unauthorized", "message": "Invalid or expired API key", "code": code});
        assert_eq!(answer.json(), body);
    }
}

#[tokio::test]
async fn a_missing_scope_is_answered_as_documented() {
    let server = norrix();
    let build = key(&server, &["build"]).await;
    let answer = as_key(&server, "GET", KEYS, &build).await;
    assert_eq!(answer.status, 403);
    let body = json!({
        "error": "Forbidden", "message": "API key does not have 'admin' scope", "code": "insufficient_scope",
    });
    assert_eq!(answer.json(), body);
}

#[tokio::test]
async fn a_key_belongs_to_the_organization_that_created_it() {
    let server = norrix();
    let made = key(&server, &["build"]).await;
    assert_eq!(check(&server, &made, json!({})).await["organization"], "org_abc123");
    assert_eq!(check(&server, &made, json!({"organization": "org_abc123"})).await["code"], "VALID");
    assert_eq!(check(&server, &made, json!({"organization": "org_xyz"})).await["code"], "WRONG_ORGANIZATION");
    // In this keyspace a key needs an organization.
    let body = json!({"name": "x"});
    reply(server.rest("POST", KEYS).bearer_auth(ROOT).json(&body)).await.bad(&["orgId"]);
}

#[tokio::test]
async fn a_caller_can_name_only_its_own_organization() {
    let server = norrix();
    let admin = key(&server, &["admin"]).await;
    server.create(json!({"name": "theirs", "orgId": "org_xyz"})).await;
    as_key(&server, "GET", &format!("{KEYS}?orgId=org_abc123"), &admin).await.good(200);
    for organization in ["org_xyz", "org_that_is_none"] {
        let path = format!("{KEYS}?orgId={organization}");
        as_key(&server, "GET", &path, &admin).await.refused(403, "forbidden");
    }
}

#[tokio::test]
async fn an_environment_can_be_set_and_asserted() {
    let server = norrix();
    let body = json!({"name": "dev", "orgId": "org_abc123", "environment": "development"});
    let development = server.create(body).await;
    assert_eq!(check(&server, &development, json!({"environment": "development"})).await["code"], "VALID");
    assert_eq!(check(&server, &development, json!({"environment": "production"})).await["code"], "WRONG_ENVIRONMENT");
}

#[tokio::test]
async fn an_expiration_in_days_is_optional() {
    let server = norrix();
    let before = now_ms();
    let body = json!({"name": "quarter", "orgId": "org_abc123", "expiresInDays": 90, "scopes": ["admin"]});
    let made = server.create(body).await;
    let expires = as_key(&server, "GET", "/api/v1/keys", &made).await.good(200)["expires"].as_i64().unwrap();
    assert!((before + 90 * 86_400_000..=now_ms() + 90 * 86_400_000).contains(&expires));
    assert!(made["expiresAt"].as_str().unwrap().ends_with('Z'));
    assert_eq!(key(&server, &["build"]).await["expiresAt"], Value::Null);
}

#[tokio::test]
async fn an_expired_key_is_refused_and_stays_in_the_list() {
    let server = norrix();
    let body = json!({"name": "short", "orgId": "org_abc123"});
    let made = server.create_expiring("/api/api-keys", Some(ROOT), body).await;
    let refused = until("the key expires", async || {
        let reply = as_key(&server, "GET", KEYS, &made).await;
        (reply.status == 401).then_some(reply)
    })
    .await;
    assert_eq!(refused.refused(401, "expired"), "Invalid or expired API key");
    let listed = reply(server.rest("GET", KEYS).bearer_auth(ROOT)).await.good(200);
    assert_eq!(listed["keys"][0]["id"], made["id"]);
    assert_eq!(listed["keys"][0]["status"], "expired");
}

#[tokio::test]
async fn the_list_shows_what_the_dashboard_needs() {
    let server = norrix();
    let made = key(&server, &["build"]).await;
    let listed = reply(server.rest("GET", KEYS).bearer_auth(ROOT)).await.good(200);
    let shown = &listed["keys"][0];
    for (name, value) in [
        ("name", json!("GitHub Actions")),
        ("prefix", made["prefix"].clone()),
        ("scopes", json!(["build"])),
        ("lastUsedAt", Value::Null),
        ("expiresAt", Value::Null),
        ("createdBy", json!("root")),
        ("status", json!("active")),
    ] {
        assert_eq!(shown.get(name), Some(&value), "{name}");
    }
}

#[tokio::test]
async fn the_last_use_shows_within_two_seconds() {
    let server = norrix();
    within(Duration::from_secs(2), "the last use shows", async || {
        let made = key(&server, &["build"]).await;
        check(&server, &made, json!({})).await;
        let used = std::time::Instant::now();
        let path = format!("{KEYS}/{}", made["id"].as_str().unwrap());
        until("the use shows", async || {
            let shown = reply(server.rest("GET", &path).bearer_auth(ROOT)).await.good(200);
            shown["lastUsedAt"].as_str().map(str::to_owned)
        })
        .await;
        used.elapsed()
    })
    .await;
}

#[tokio::test]
async fn a_revoked_key_is_invalid_at_once_and_stays_in_the_list() {
    let server = norrix();
    let made = key(&server, &["admin"]).await;
    as_key(&server, "GET", KEYS, &made).await.good(200);
    let path = format!("{KEYS}/{}", made["id"].as_str().unwrap());
    reply(server.rest("DELETE", &path).bearer_auth(ROOT)).await.good(200);
    assert_eq!(as_key(&server, "GET", KEYS, &made).await.refused(401, "revoked"), "Invalid or expired API key");
    let listed = reply(server.rest("GET", KEYS).bearer_auth(ROOT)).await.good(200);
    assert_eq!((&listed["keys"][0]["id"], &listed["keys"][0]["status"]), (&made["id"], &json!("revoked")));
}

#[tokio::test]
async fn a_key_is_rotated_by_creating_a_second_one() {
    let server = norrix();
    let (old, new) = (key(&server, &["build"]).await, key(&server, &["build"]).await);
    assert_eq!(check(&server, &old, json!({})).await["code"], "VALID");
    assert_eq!(check(&server, &new, json!({})).await["code"], "VALID");
    let path = format!("{KEYS}/{}", old["id"].as_str().unwrap());
    reply(server.rest("DELETE", &path).bearer_auth(ROOT)).await.good(200);
    assert_eq!(check(&server, &old, json!({})).await["code"], "REVOKED");
    assert_eq!(check(&server, &new, json!({})).await["code"], "VALID");
}
