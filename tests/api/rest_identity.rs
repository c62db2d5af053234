//! `GET /api/v1/whoami` and `GET /.well-known/keyward`: who a caller is, and what a command line has to know.

use serde_json::{Value, json};

use crate::support::{
    Server, Setup,
    oidc::{Provider, until_fetched},
    reply,
    server::ROOT,
};

const WHOAMI: &str = "/api/v1/whoami";

async fn whoami(server: &Server, bearer: &str) -> Value {
    reply(server.rest("GET", WHOAMI).bearer_auth(bearer)).await.good(200)
}

#[tokio::test]
async fn a_session_sees_its_organizations_and_roles() {
    let provider = Provider::start();
    let server = Setup::new().ready("norrix").and(&provider.table("dashboard", &["norrix"], "")).start();
    let claims =
        json!({"sub": "olga", "email": "olga@example.com", "norrix:orgs": {"acme": "owner", "globex": "member"}});
    let token = provider.issue("dashboard", &claims).await;
    let mut identity = whoami(&server, &token).await;
    let expires = identity["expiresAt"].take();
    assert!(expires.as_str().is_some_and(|text| text.starts_with("20") && text.ends_with('Z')), "{expires}");
    let expected = json!({
        "caller": "session", "subject": "olga", "keyId": null, "name": "olga@example.com", "keyspaces": ["norrix"],
        "organizations": [{"id": "acme", "role": "owner"}, {"id": "globex", "role": "member"}],
        "scopes": [], "expiresAt": null,
    });
    assert_eq!(identity.to_string(), expected.to_string(), "in this order, too");
    // A person without any role may still ask who it is.
    let stranger = provider.issue("dashboard", &json!({"sub": "mia", "name": "Mia\u{7}"})).await;
    let identity = whoami(&server, &stranger).await;
    assert_eq!(
        (&identity["organizations"], &identity["name"]),
        (&json!([]), &Value::Null),
        "no name with control characters"
    );
}

#[tokio::test]
async fn a_key_sees_what_it_may_do() {
    let server = Setup::new().ready("all").start();
    let body = json!({"name": "ci", "keyspace": "norrix", "orgId": "acme", "scopes": ["build"], "expiresInDays": 3});
    let made = server.create(body).await;
    let identity = whoami(&server, made["key"].as_str().unwrap()).await;
    let expected = json!({
        "caller": "key", "subject": null, "keyId": made["id"], "name": "ci", "keyspaces": ["norrix"],
        "organizations": [{"id": "acme", "role": null}], "scopes": ["build"], "expiresAt": made["expiresAt"],
    });
    assert_eq!(identity, expected);
    // The header that its keyspace reads.
    let body = json!({"name": "n", "keyspace": "nora", "orgId": "o", "instanceId": "i", "environment": "sandbox"});
    let nora = server.create(body).await;
    let request = server.rest("GET", WHOAMI).header("x-api-key", nora["key"].as_str().unwrap());
    assert_eq!(reply(request).await.good(200)["keyId"], nora["id"]);
    let request = server.rest("GET", WHOAMI).bearer_auth(nora["key"].as_str().unwrap());
    reply(request).await.refused(401, "missing_credential");
}

#[tokio::test]
async fn it_counts_against_the_limit_of_a_key() {
    let server = Setup::new().ready("noro").start();
    let (_, made) = server.call("POST", "/api/v1/keys", None, json!({})).await;
    let secret = made["key"].as_str().unwrap();
    for left in [99, 98] {
        let answer = reply(server.rest("GET", WHOAMI).bearer_auth(secret)).await;
        assert_eq!(answer.number("x-ratelimit-remaining"), left);
    }
}

#[tokio::test]
async fn operators_and_services_see_the_keyspaces_that_they_serve() {
    let server = Setup::new().ready("all").start();
    let all = json!(["keyward", "norrix", "noro", "nora"]);
    let identity = whoami(&server, ROOT).await;
    assert_eq!(
        (&identity["caller"], &identity["keyId"], &identity["scopes"]),
        (&json!("operator"), &Value::Null, &json!(["root"]))
    );
    assert_eq!(identity["keyspaces"], all);

    let root = server.create(json!({"name": "ops", "keyspace": "keyward", "scopes": ["root"]})).await;
    let identity = whoami(&server, root["key"].as_str().unwrap()).await;
    assert_eq!(
        (&identity["caller"], &identity["name"], &identity["keyId"]),
        (&json!("operator"), &json!("ops"), &root["id"])
    );

    let service = server.create(json!({"name": "api", "keyspace": "keyward", "scopes": ["verify"]})).await;
    let identity = whoami(&server, service["key"].as_str().unwrap()).await;
    assert_eq!(
        (&identity["caller"], &identity["scopes"], &identity["keyspaces"]),
        (&json!("service"), &json!(["verify"]), &all)
    );
    let body = json!({"name": "api", "keyspace": "keyward", "scopes": ["verify"], "keyspaces": ["nora"]});
    let limited = server.create(body).await;
    assert_eq!(whoami(&server, limited["key"].as_str().unwrap()).await["keyspaces"], json!(["nora"]));
}

#[tokio::test]
async fn nobody_is_refused() {
    let server = Setup::new().ready("norrix").start();
    reply(server.rest("GET", WHOAMI)).await.refused(401, "missing_credential");
    reply(server.rest("GET", WHOAMI).bearer_auth("nrx_nothing")).await.refused(401, "malformed");
    let made = server.create(json!({"name": "n", "orgId": "acme"})).await;
    let path = format!("/api/api-keys/{}", made["id"].as_str().unwrap());
    reply(server.rest("DELETE", &path).bearer_auth(ROOT)).await.good(200);
    let request = server.rest("GET", WHOAMI).bearer_auth(made["key"].as_str().unwrap());
    reply(request).await.refused(401, "revoked");
}

#[tokio::test]
async fn discovery_shows_where_people_sign_in() {
    let provider = Provider::start();
    let cli = "cli = { client_id = \"cli\", scopes = [\"offline_access\"], ports = [8976, 8977] }";
    let server = Setup::new().ready("norrix").and(&provider.table("dashboard", &["norrix"], cli)).start();
    until_fetched(&provider, 1).await;
    let discovery = reply::until("the issuer is known", async || {
        let discovery = reply(server.rest("GET", "/.well-known/keyward")).await.good(200);
        discovery["deviceFlow"].is_boolean().then_some(discovery)
    })
    .await;
    let expected = json!({
        "name": "norrix", "issuer": provider.issuer, "clientId": "cli", "scopes": ["openid", "offline_access"],
        "redirectPorts": [8976, 8977], "deviceFlow": true, "grpc": format!("http://{}", server.grpc),
        "keyspaces": [{
            "name": "norrix", "scopes": ["build", "submit", "update", "admin"], "requires": ["organization"],
        }],
        "dashboard": "/dashboard",
    });
    assert_eq!(discovery.to_string(), expected.to_string());
    // A token for the client of the command line is a session, although `audience` does not name it.
    let token = provider.token("cli", "olga", &json!({"acme": "owner"})).await;
    assert_eq!(whoami(&server, &token).await["subject"], "olga");
    let foreign = provider.token("another", "olga", &json!({"acme": "owner"})).await;
    reply(server.rest("GET", WHOAMI).bearer_auth(foreign)).await.refused(401, "malformed");
}

#[tokio::test]
async fn without_an_issuer_the_sign_in_is_null() {
    let server = Setup::new().ready("all").start();
    let discovery = reply(server.rest("GET", "/.well-known/keyward")).await.good(200);
    for field in ["issuer", "clientId", "scopes", "redirectPorts", "deviceFlow"] {
        assert_eq!(discovery[field], Value::Null, "{field}");
    }
    assert_eq!((&discovery["name"], discovery["keyspaces"].as_array().unwrap().len()), (&json!("keyward"), 3));
    assert_eq!(discovery["keyspaces"][1], json!({"name": "noro", "scopes": null, "requires": []}));
    let nora = json!({"name": "nora", "scopes": null, "requires": ["organization", "instance", "environment"]});
    assert_eq!(discovery["keyspaces"][2], nora);
}
