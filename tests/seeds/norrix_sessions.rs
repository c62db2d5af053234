//! Norrix: people and their sessions. The ready-made configuration for AWS Cognito, with a test provider in its place.
//!
//! | statement | test |
//! |---|---|
//! | session tokens, for browser-based dashboard access, via cookies after login | `a_dashboard_session_is_a_cookie` |
//! | Dashboard → Settings → API Keys: create, copy once, see the list, revoke | `the_dashboard_creates_lists_and_revokes_keys` |
//! | owners can revoke any key; admins can revoke their own keys; members can't manage API keys | `who_can_revoke` |
//! | admin endpoints require session authentication or an admin-scoped key | `admin_endpoints_need_a_session_or_an_admin_scoped_key` |
//! | login via AWS Cognito | all of them: the claims are Cognito's |
//! | specify an organization: `orgId`, `--org org_abc123` | `an_organization_is_chosen_for_one_call` |
//! | the list shows "Created by" | `the_dashboard_creates_lists_and_revokes_keys` |
//! | token storage, `sign-in`, `sign-out`, `whoami`, and the rest of the command line | `norrix_cli.rs` |

use serde_json::{Value, json};

use crate::support::{Reply, Server, Setup, oidc::Provider, reply, server::ROOT};

const KEYS: &str = "/api/api-keys";

struct Norrix {
    server: Server,
    provider: Provider,
}

impl Norrix {
    /// `config/cognito.toml` with the address of the test provider.
    fn start() -> Self {
        let provider = Provider::start();
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/cognito.toml")).unwrap();
        let pool = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_EXAMPLE";
        let config = text.replace(&format!("issuer = \"{pool}\""), &format!("issuer = \"{}\"", provider.issuer));
        assert_ne!(config, text);
        Self { server: Setup::new().config(&config).start(), provider }
    }

    /// A person's token with Cognito's claims.
    async fn person(&self, name: &str, organizations: &[&str], role: &str) -> String {
        let claims = json!({"sub": name, "cognito:groups": organizations, "custom:role": role, "token_use": "id"});
        self.provider.issue("1example23456789", &claims).await
    }

    async fn call(&self, bearer: &str, method: &str, path: &str, body: Value) -> Reply {
        let mut request = self.server.rest(method, path).bearer_auth(bearer);
        if !body.is_null() {
            request = request.json(&body);
        }
        reply(request).await
    }

    async fn create(&self, bearer: &str, name: &str) -> Value {
        self.call(bearer, "POST", KEYS, json!({"name": name, "scopes": ["build"]})).await.good(201)
    }
}

fn path(key: &Value) -> String {
    format!("{KEYS}/{}", key["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_dashboard_session_is_a_cookie() {
    let norrix = Norrix::start();
    let cookie = format!("__Host-norrix_session={}", norrix.person("olga", &["org_abc123"], "owner").await);
    reply(norrix.server.rest("GET", KEYS).header("cookie", &cookie)).await.good(200);
    let create = || norrix.server.rest("POST", KEYS).header("cookie", &cookie).json(&json!({"name": "GitHub Actions"}));
    reply(create().header("sec-fetch-site", "same-origin")).await.good(201);
    reply(create().header("sec-fetch-site", "cross-site")).await.refused(403, "forbidden");
}

#[tokio::test]
async fn the_dashboard_creates_lists_and_revokes_keys() {
    let norrix = Norrix::start();
    let olga = norrix.person("olga", &["org_abc123"], "owner").await;
    let body = json!({"name": "GitHub Actions", "scopes": ["build", "submit"], "expiresInDays": 90});
    let made = norrix.call(&olga, "POST", KEYS, body).await.good(201);
    let secret = made["key"].as_str().unwrap();
    assert!(secret.starts_with("nrx_"), "{secret}");
    let listed = norrix.call(&olga, "GET", KEYS, Value::Null).await;
    assert!(!listed.text.contains(secret), "it is shown once");
    let shown = &listed.good(200)["keys"][0];
    assert_eq!((&shown["name"], &shown["prefix"]), (&json!("GitHub Actions"), &json!(secret[..12])));
    assert_eq!((&shown["scopes"], &shown["createdBy"]), (&json!(["build", "submit"]), &json!("user:olga")));
    assert_eq!(norrix.call(&olga, "DELETE", &path(&made), Value::Null).await.good(200)["status"], "revoked");
    let listed = norrix.call(&olga, "GET", KEYS, Value::Null).await.good(200);
    assert_eq!(listed["keys"][0]["status"], "revoked", "it stays in the list");
    let verdict = norrix.call(ROOT, "POST", "/api/v1/verify", json!({"secret": secret})).await.good(200);
    assert_eq!(verdict["code"], "REVOKED");
}

#[tokio::test]
async fn who_can_revoke() {
    let norrix = Norrix::start();
    let olga = norrix.person("olga", &["org_abc123"], "owner").await;
    let adam = norrix.person("adam", &["org_abc123"], "admin").await;
    let mia = norrix.person("mia", &["org_abc123"], "member").await;
    let revoke = async |person: &str, key: &Value| norrix.call(person, "DELETE", &path(key), Value::Null).await;
    let (of_olga, of_adam) = (norrix.create(&olga, "hers").await, norrix.create(&adam, "his").await);
    revoke(&adam, &of_olga).await.refused(403, "forbidden");
    revoke(&adam, &of_adam).await.good(200);
    let another = norrix.create(&adam, "his").await;
    for key in [&of_olga, &another] {
        revoke(&mia, key).await.refused(403, "forbidden");
        revoke(&olga, key).await.good(200);
    }
    for (method, path, body) in [
        ("GET", KEYS.to_owned(), Value::Null),
        ("POST", KEYS.to_owned(), json!({"name": "n"})),
        ("GET", path(&of_olga), Value::Null),
        ("PATCH", path(&of_olga), json!({"webhook": ""})),
    ] {
        let message = norrix.call(&mia, method, &path, body).await.refused(403, "forbidden");
        assert_eq!(message, "Members cannot manage API keys");
    }
}

#[tokio::test]
async fn admin_endpoints_need_a_session_or_an_admin_scoped_key() {
    let norrix = Norrix::start();
    let olga = norrix.person("olga", &["org_abc123"], "owner").await;
    let body = |scope: &str| json!({"name": scope, "scopes": [scope]});
    let admin = norrix.call(&olga, "POST", KEYS, body("admin")).await.good(201);
    let build = norrix.call(&olga, "POST", KEYS, body("build")).await.good(201);
    for good in [olga.as_str(), admin["key"].as_str().unwrap()] {
        norrix.call(good, "GET", KEYS, Value::Null).await.good(200);
    }
    let refused = norrix.call(build["key"].as_str().unwrap(), "GET", KEYS, Value::Null).await;
    assert_eq!(refused.refused(403, "insufficient_scope"), "API key does not have 'admin' scope");
    reply(norrix.server.rest("GET", KEYS)).await.refused(401, "missing_credential");
}

#[tokio::test]
async fn an_organization_is_chosen_for_one_call() {
    let norrix = Norrix::start();
    let olga = norrix.person("olga", &["org_abc123", "org_def456"], "owner").await;
    let list = async |query: &str| norrix.call(&olga, "GET", &format!("{KEYS}{query}"), Value::Null).await;
    list("").await.bad(&["orgId"]);
    let body = json!({"name": "Jenkins", "orgId": "org_def456"});
    let made = norrix.call(&olga, "POST", KEYS, body).await.good(201);
    assert_eq!(list("?orgId=org_def456").await.good(200)["keys"][0]["id"], made["id"]);
    assert_eq!(list("?orgId=org_abc123").await.good(200)["keys"], json!([]));
    list("?orgId=org_xyz").await.refused(403, "forbidden");
}
