//! What a session may do beyond the matrix: several organizations, several keyspaces, and the recorded caller.

use keyward::proto::{CreateRequest, ListRequest, RevokeRequest, UpdateWebhookRequest};
use serde_json::{Value, json};

use crate::support::{
    Reply, Server, Setup,
    grpc::{assert_invalid, assert_refused, create, list, made, texts},
    oidc::Provider,
    reply,
    server::with,
};

const MANY: &str = "/api/api-keys";

fn start(more: &str) -> (Server, Provider) {
    let provider = Provider::start();
    let table = provider.table("norrix", &["norrix"], more);
    (Setup::new().ready("all").and(&table).start(), provider)
}

async fn call(server: &Server, token: &str, method: &str, path: &str, body: Value) -> Reply {
    let mut request = server.rest(method, path).bearer_auth(token);
    if !body.is_null() {
        request = request.json(&body);
    }
    reply(request).await
}

fn path(key: &Value) -> String {
    format!("{MANY}/{}", key["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_session_of_several_organizations_must_name_one_and_has_a_role_in_each() {
    let (server, provider) = start("");
    let roles = json!({"acme": "owner", "globex": "admin", "initech": "member"});
    let token = provider.token("norrix", "sam", &roles).await;
    let norrix = |organization: &str| json!({"name": "n", "keyspace": "norrix", "orgId": organization});
    let (acme, globex) = (server.create(norrix("acme")).await, server.create(norrix("globex")).await);
    let (initech, other) = (server.create(norrix("initech")).await, server.create(norrix("other")).await);

    call(&server, &token, "POST", MANY, json!({"name": "n"})).await.bad(&["orgId"]);
    call(&server, &token, "GET", MANY, Value::Null).await.bad(&["orgId"]);
    for (organization, allowed) in
        [("acme", true), ("globex", true), ("initech", false), ("other", false), ("?", false)]
    {
        let listed = call(&server, &token, "GET", &format!("{MANY}?orgId={organization}"), Value::Null).await;
        let created = call(&server, &token, "POST", MANY, json!({"name": "n", "orgId": organization})).await;
        // A POST may name the organization in the query as well as in the body.
        let path = format!("{MANY}?orgId={organization}");
        let chosen = call(&server, &token, "POST", &path, json!({"name": "n"})).await;
        if allowed {
            let keys = listed.good(200)["keys"].as_array().unwrap().clone();
            assert!(!keys.is_empty() && keys.iter().all(|key| key["orgId"] == organization), "{keys:?}");
            assert_eq!(created.good(201)["orgId"], organization);
            assert_eq!(chosen.good(201)["orgId"], organization);
        } else {
            for answer in [listed, created, chosen] {
                answer.refused(403, "forbidden");
            }
        }
    }
    let both = format!("{MANY}?orgId=acme");
    call(&server, &token, "POST", &both, json!({"name": "n", "orgId": "globex"})).await.refused(403, "forbidden");

    // A key id determines the organization, and the role in that organization applies.
    call(&server, &token, "GET", &path(&acme), Value::Null).await.good(200);
    call(&server, &token, "GET", &path(&globex), Value::Null).await.good(200);
    call(&server, &token, "GET", &path(&initech), Value::Null).await.refused(403, "forbidden");
    call(&server, &token, "GET", &path(&other), Value::Null).await.refused(404, "not_found");
    // `orgId` restricts requests for a single key, too.
    let narrowed = |key: &Value, organization: &str| format!("{}?orgId={organization}", path(key));
    call(&server, &token, "GET", &narrowed(&acme, "acme"), Value::Null).await.good(200);
    call(&server, &token, "DELETE", &narrowed(&acme, "globex"), Value::Null).await.refused(404, "not_found");
    call(&server, &token, "DELETE", &narrowed(&acme, "initech"), Value::Null).await.refused(403, "forbidden");
    call(&server, &token, "DELETE", &narrowed(&acme, "other"), Value::Null).await.refused(403, "forbidden");
    call(&server, &token, "DELETE", &path(&globex), Value::Null).await.refused(403, "forbidden");
    call(&server, &token, "DELETE", &path(&acme), Value::Null).await.good(200);

    let mut client = server.client().await;
    assert_invalid(client.list(with(&token, ListRequest::default())).await, &["organization"], "list");
    assert_invalid(client.create(with(&token, CreateRequest::default())).await, &["organization"], "create");
    let keys = list(&mut client, &token, ListRequest { organization: "globex".into(), ..ListRequest::default() }).await;
    assert!(!keys.is_empty() && keys.iter().all(|key| key.organization == "globex"));
}

/// The attack: an admin with a similar subject tries to change the keys of another admin.
#[tokio::test]
async fn an_admin_changes_only_the_keys_that_it_created() {
    let (server, provider) = start("");
    let acme = json!({"acme": "admin"});
    let adam = provider.token("norrix", "adam", &acme).await;
    let again = provider.token("norrix", "adam", &acme).await;
    let own = call(&server, &adam, "POST", MANY, json!({"name": "n"})).await.good(201);
    assert_eq!((&own["createdBy"], &own["orgId"]), (&json!("user:adam"), &json!("acme")));
    for name in ["ada", "Adam", "adam ", "adam%", "_dam", "adamx", "user:adam", "key:adam"] {
        let other = provider.token("norrix", name, &acme).await;
        call(&server, &other, "GET", &path(&own), Value::Null).await.good(200);
        call(&server, &other, "DELETE", &path(&own), Value::Null).await.refused(403, "forbidden");
        call(&server, &other, "PATCH", &path(&own), json!({"webhook": ""})).await.refused(403, "forbidden");
    }
    // A former admin who is now a member may no longer change the keys that he created.
    let demoted = provider.token("norrix", "adam", &json!({"acme": "member"})).await;
    call(&server, &demoted, "DELETE", &path(&own), Value::Null).await.refused(403, "forbidden");
    let moved = provider.token("norrix", "adam", &json!({"globex": "admin"})).await;
    call(&server, &moved, "DELETE", &path(&own), Value::Null).await.refused(404, "not_found");
    // Another token of the same person gives the same rights.
    let hooked = call(&server, &again, "PATCH", &path(&own), json!({"webhook": "https://h.example/"})).await.good(200);
    assert_eq!(hooked["webhook"], "https://h.example/");
    let revoked = call(&server, &again, "DELETE", &path(&own), Value::Null).await.good(200);
    assert_eq!(revoked["status"], "revoked");
}

/// A key with the admin scope may revoke any key: an admin who could create one would have an owner's rights.
#[tokio::test]
async fn an_admin_cannot_grant_the_admin_scope() {
    let provider = Provider::start();
    let keyspace = "[[keyspace]]\nname = \"x\"\nprefix = \"x_\"\nsecret = { encoding = \"base64url\", bytes = 32 }\n\
                    scopes = [\"use\", \"admin\"]\nadmin_scope = \"admin\"\n";
    let server = Setup::new().config(keyspace).and(&provider.table("a", &["x"], "")).start();
    let adam = provider.token("a", "adam", &json!({"acme": "admin"})).await;
    for body in [json!({"name": "n", "scopes": ["admin"]}), json!({"name": "n", "scopes": ["use", "admin"]})] {
        let message = call(&server, &adam, "POST", MANY, body).await.refused(403, "forbidden");
        assert_eq!(message, "Only an owner may grant the 'admin' scope");
    }
    call(&server, &adam, "POST", MANY, json!({"name": "n", "scopes": ["use"]})).await.good(201);
    // It is among no defaults.
    let made = call(&server, &adam, "POST", MANY, json!({"name": "n"})).await.good(201);
    assert_eq!(made["scopes"], json!(["use"]));
    let olga = provider.token("a", "olga", &json!({"acme": "owner"})).await;
    call(&server, &olga, "POST", MANY, json!({"name": "n"})).await.good(201);
    let mut client = server.client().await;
    let request = CreateRequest { scopes: texts(&["admin"]), ..CreateRequest::default() };
    assert_refused(client.create(with(&adam, request)).await, tonic::Code::PermissionDenied, "FORBIDDEN");
}

#[tokio::test]
async fn a_session_of_several_keyspaces_must_name_one() {
    let provider = Provider::start();
    let table = provider.table("suite", &["norrix", "nora"], "");
    let server = Setup::new().ready("all").and(&table).start();
    let olga = provider.token("suite", "olga", &json!({"acme": "owner"})).await;
    call(&server, &olga, "GET", MANY, Value::Null).await.bad(&["keyspace"]);
    call(&server, &olga, "POST", MANY, json!({"name": "n"})).await.bad(&["keyspace"]);
    for (keyspace, more) in [("norrix", json!({})), ("nora", json!({"instanceId": "i", "environment": "sandbox"}))] {
        let mut body = json!({"name": "n", "keyspace": keyspace});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = call(&server, &olga, "POST", MANY, body).await.good(201);
        let page = call(&server, &olga, "GET", &format!("{MANY}?keyspace={keyspace}"), Value::Null).await.good(200);
        assert_eq!((page["keys"].as_array().unwrap().len(), &page["keys"][0]["id"]), (1, &made["id"]));
        call(&server, &olga, "DELETE", &path(&made), Value::Null).await.good(200);
    }
    for keyspace in ["noro", "keyward", "none-such"] {
        let listed = call(&server, &olga, "GET", &format!("{MANY}?keyspace={keyspace}"), Value::Null).await;
        let created = call(&server, &olga, "POST", MANY, json!({"name": "n", "keyspace": keyspace})).await;
        assert_eq!(listed.refused(403, "forbidden"), created.refused(403, "forbidden"), "{keyspace}");
    }
}

#[tokio::test]
async fn a_session_is_recorded_by_its_subject_in_records_and_in_the_log() {
    let (server, provider) = start("subject_prefix = \"norrix:\"");
    let mut client = server.client().await;
    let olga = provider.token("norrix", "olga", &json!({"acme": "owner"})).await;
    let key = made(create(&mut client, &olga, CreateRequest::default()).await);
    assert_eq!((key.key.created_by.as_str(), key.key.organization.as_str()), ("user:norrix:olga", "acme"));
    let hook = UpdateWebhookRequest {
        id: key.id.clone(),
        webhook_url: "https://h.example/".into(),
        ..UpdateWebhookRequest::default()
    };
    client.update_webhook(with(&olga, hook)).await.unwrap();
    let revoke = RevokeRequest { id: key.id.clone(), reason: "leaked".into() };
    let revoked = client.revoke(with(&olga, revoke)).await.unwrap().into_inner().key.unwrap();
    assert_eq!(revoked.revoked_by, "user:norrix:olga");
    let filter = format!("{MANY}?createdBy=user%3Anorrix%3Aolga");
    assert_eq!(call(&server, &olga, "GET", &filter, Value::Null).await.good(200)["keys"].as_array().unwrap().len(), 1);
    for line in ["call=\"revoke\"", "caller=\"session\"", "actor=\"user:norrix:olga\""] {
        server.logged(line).await;
    }
    assert!(!server.log().contains(&olga[..40]), "no token is logged");
}

/// Keys of a caller with a subject of the maximum length can be listed.
#[tokio::test]
async fn the_longest_subject_is_recorded_in_full() {
    let (server, provider) = start("");
    let subject = "ü".repeat(255);
    let olga = provider.token("norrix", &subject, &json!({"acme": "owner"})).await;
    let made = call(&server, &olga, "POST", MANY, json!({"name": "n"})).await.good(201);
    assert_eq!(made["createdBy"], format!("user:{subject}"));
    let mut client = server.client().await;
    let request = ListRequest { created_by: format!("user:{subject}"), ..ListRequest::default() };
    assert_eq!(list(&mut client, &olga, request).await.len(), 1);
}

/// The environment of a host restricts a product's keys, not the people who manage them.
#[tokio::test]
async fn a_session_is_not_bound_to_the_environment_of_the_host() {
    let provider = Provider::start();
    let server = Setup::new()
        .ready("nora")
        .and(&provider.table("nora", &["nora"], ""))
        .env("KEYWARD_HTTP_ENVIRONMENT", "production")
        .start();
    let olga = provider.token("nora", "olga", &json!({"acme": "owner"})).await;
    for (named, expected) in [(None, "production"), (Some("sandbox"), "sandbox"), (Some("production"), "production")] {
        let body = json!({"name": "n", "instanceId": "i", "environment": named});
        let made = call(&server, &olga, "POST", MANY, body).await.good(201);
        assert_eq!(made["environment"], expected);
        call(&server, &olga, "DELETE", &path(&made), Value::Null).await.good(200);
    }
}

#[tokio::test]
async fn sessions_and_admin_keys_read_the_events_of_their_organization() {
    let (server, provider) = start("");
    for (organization, scopes) in [("acme", json!(["build"])), ("other", json!(["build"]))] {
        let body = json!({"name": "n", "keyspace": "norrix", "orgId": organization, "scopes": scopes});
        server.create(body).await;
    }
    let key = |scope: &str| json!({"name": "n", "keyspace": "norrix", "orgId": "acme", "scopes": [scope]});
    let (plain, admin) = (server.create(key("build")).await, server.create(key("admin")).await);
    let secret = |made: &Value| made["key"].as_str().unwrap().to_owned();
    let token = async |role: &str| provider.token("norrix", role, &json!({"acme": role})).await;

    for credential in [token("owner").await, token("admin").await, secret(&admin)] {
        let page = call(&server, &credential, "GET", "/api/events", Value::Null).await.good(200);
        let events = page["events"].as_array().unwrap().clone();
        assert_eq!(events.len(), 3, "{events:?}");
        assert!(events.iter().all(|event| event["data"]["orgId"] == "acme"), "{events:?}");
        call(&server, &credential, "GET", "/api/events?orgId=other", Value::Null).await.refused(403, "forbidden");
    }
    call(&server, &token("member").await, "GET", "/api/events", Value::Null).await.refused(403, "forbidden");
    call(&server, &secret(&plain), "GET", "/api/events", Value::Null).await.refused(403, "insufficient_scope");
}
