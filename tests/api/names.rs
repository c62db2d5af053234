//! Texts that people read and that keys are bound to: what they may hold, and when two of them are equal.

use keyward::proto::{Code, CreateRequest, Key, ListEventsRequest, ListRequest, RevokeRequest, VerifyRequest};
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, sqlite::SqliteConnectOptions};

use crate::support::{
    Server, Setup,
    grpc::{Client, assert_invalid, check, create, list, made, pairs, verify},
    reply,
    server::{ROOT, with},
};

const COMPOSED: &str = "Bürö";
const DECOMPOSED: &str = "Bu\u{308}ro\u{308}";

/// Characters of every kind that nobody sees.
const HIDDEN: [&str; 12] = [
    "\u{200b}",
    "\u{3164}",
    "\u{202e}",
    "\u{2066}",
    "\u{2028}",
    "\u{ad}",
    "\u{feff}",
    "\u{e000}",
    "\u{378}",
    "\u{e0041}",
    "\u{200d}",
    "\u{85}",
];

#[tokio::test]
async fn rest_refuses_hidden_characters_in_every_text_of_a_new_key() {
    let server = Setup::new().ready("noro").start();
    for hidden in HIDDEN {
        for text in [hidden.to_owned(), format!("a{hidden}b")] {
            let public = reply(server.rest("POST", "/api/v1/keys").json(&json!({"name": text}))).await;
            let message = public.refused(400, "invalid_argument");
            assert!(message.starts_with("name: "), "{text:?}: {message}");
            if text.trim().is_empty() {
                // This route needs a name, and white space is none.
                continue;
            }
            let fields = json!({
                "name": text, "orgId": text, "instanceId": text, "environment": text, "metadata": {text.clone(): "v"},
            });
            let managed = reply(server.rest("POST", "/api/api-keys").bearer_auth(ROOT).json(&fields)).await;
            let message = managed.refused(400, "invalid_argument");
            for field in ["name", "orgId", "instanceId", "environment", "metadata"] {
                assert!(message.contains(&format!("{field}: ")), "{text:?}: {message}");
            }
            assert!(!message.contains(hidden), "{text:?}");
        }
    }
    for blank in [" ", "\u{a0}\u{2003}", "\u{2800}"] {
        let answer = reply(server.rest("POST", "/api/v1/keys").json(&json!({"name": blank}))).await;
        assert_eq!(answer.refused(400, "invalid_argument"), "name: must hold a character that can be seen");
    }
}

#[tokio::test]
async fn grpc_refuses_hidden_characters_in_every_text() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let key = made(create(&mut client, ROOT, CreateRequest::default()).await);
    for hidden in HIDDEN {
        let text = || format!("a{hidden}");
        let request = CreateRequest {
            name: text(),
            organization: text(),
            instance: text(),
            environment: text(),
            metadata: pairs(&[(&text(), "v")]).into_iter().collect(),
            ..CreateRequest::default()
        };
        let fields = ["organization", "instance", "environment", "name", "metadata"];
        assert_invalid(client.create(with(ROOT, request)).await, &fields, &format!("{hidden:?}"));
        let request = RevokeRequest { id: key.id.clone(), reason: text() };
        assert_invalid(client.revoke(with(ROOT, request)).await, &["reason"], &format!("{hidden:?}"));
    }
}

#[tokio::test]
async fn names_of_every_script_and_emoji_are_kept() {
    let server = Setup::new().start();
    for name in ["本番 キー", "می‌خواهم", "क्‍ष", "👩🏽‍💻 deploys", "❤️", "🏳️‍🌈", "Müller & Söhne"]
    {
        let made = server.create(json!({"name": name, "orgId": name, "metadata": {name: name}})).await;
        assert_eq!(
            (&made["name"], &made["orgId"], &made["metadata"]),
            (&name.into(), &name.into(), &json!({name: name}))
        );
    }
}

#[tokio::test]
async fn texts_are_stored_in_one_form_and_equal_in_every_form() {
    let server = Setup::new().ready("norrix").start();
    let mut client = server.client().await;
    let body = json!({
        "name": DECOMPOSED, "orgId": DECOMPOSED, "instanceId": DECOMPOSED, "environment": DECOMPOSED,
        "scopes": ["admin"], "metadata": {DECOMPOSED: DECOMPOSED},
    });
    let made = server.create(body).await;
    for field in ["name", "orgId", "instanceId", "environment"] {
        assert_eq!(made[field], COMPOSED, "{field}");
    }
    // Values of metadata belong to the product.
    assert_eq!(made["metadata"], json!({COMPOSED: DECOMPOSED}));
    assert_equal_in_every_form(&server, &mut client, &made).await;
    let twice = json!({"name": "n", "orgId": "o", "metadata": {COMPOSED: "1", DECOMPOSED: "2"}});
    let refused = reply(server.rest("POST", "/api/api-keys").bearer_auth(ROOT).json(&twice)).await;
    assert_eq!(refused.refused(400, "invalid_argument"), "metadata: two keys are the same text");
}

/// What was stored before texts were normalized and checked is read, found and compared like anything else.
#[tokio::test]
async fn texts_of_older_keys_are_readable_and_equal_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let setup = || Setup::new().ready("norrix").folder(folder.path());
    let mut server = setup().start();
    let body = json!({
        "name": "n", "orgId": COMPOSED, "instanceId": COMPOSED, "environment": COMPOSED, "scopes": ["admin"],
        "metadata": {"k": "v"},
    });
    let made = server.create(body).await;
    let hidden = server.create(json!({"name": "n", "orgId": "hidden"})).await;
    server.stop();
    let options = SqliteConnectOptions::new().filename(folder.path().join("keyward.db"));
    let mut database = options.connect().await.unwrap();
    // Events are never changed: only a test does.
    database.execute("DROP TRIGGER keyward_events_no_update").await.unwrap();
    for table in ["keyward_keys", "keyward_events"] {
        let changed = format!(
            "UPDATE {table} SET organization = '{DECOMPOSED}', instance = '{DECOMPOSED}', environment = '{DECOMPOSED}' \
             WHERE organization = '{COMPOSED}'; \
             UPDATE {table} SET organization = 'a\u{200b}' WHERE organization = 'hidden'"
        );
        database.execute(sqlx::AssertSqlSafe(changed)).await.unwrap();
    }
    database.close().await.unwrap();
    let server = setup().start();
    let mut client = server.client().await;
    assert_equal_in_every_form(&server, &mut client, &made).await;
    // A text that would be refused today is still shown, asserted and found.
    let path = format!("/api/api-keys/{}", hidden["id"].as_str().unwrap());
    let shown = reply(server.rest("GET", &path).bearer_auth(ROOT)).await.good(200);
    assert_eq!(shown["orgId"], "a\u{200b}");
    let secret = hidden["key"].as_str().unwrap();
    let asserted = VerifyRequest { organization: "a\u{200b}".into(), ..check(secret) };
    assert_eq!(verify(&mut client, asserted).await.code(), Code::Valid);
    let filter = ListRequest { organization: "a\u{200b}".into(), ..ListRequest::default() };
    assert_eq!(list(&mut client, ROOT, filter).await.len(), 1);
}

/// An admin key that is bound to the organization is found, verified and allowed, however the caller writes it.
async fn assert_equal_in_every_form(server: &Server, client: &mut Client, made: &Value) {
    let (id, secret) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let ids = |keys: &[Key]| keys.iter().map(|key| key.id.clone()).collect::<Vec<_>>();
    let mut expected = vec![id.to_owned()];
    for form in [COMPOSED, DECOMPOSED] {
        let text = || form.to_owned();
        let request = VerifyRequest { organization: text(), instance: text(), environment: text(), ..check(secret) };
        assert_eq!(verify(client, request).await.code(), Code::Valid, "{form:?}");
        let request = VerifyRequest { organization: format!("{form}x"), ..check(secret) };
        assert_eq!(verify(client, request).await.code(), Code::WrongOrganization, "{form:?}");
        // The admin key makes a key of its own organization, by either name or none.
        for named in [text(), String::new()] {
            let request = CreateRequest { organization: named, ..CreateRequest::default() };
            expected.insert(0, made_id(create(client, secret, request).await));
        }
        let filter = || ListRequest {
            organization: text(),
            instance: text(),
            environment: text(),
            page_size: 2,
            ..Default::default()
        };
        assert_eq!(ids(&list(client, ROOT, filter()).await), expected, "{form:?}");
        assert_eq!(ids(&list(client, secret, filter()).await), expected, "{form:?}");
        assert_eq!(ids(&list(client, secret, ListRequest::default()).await), expected);
        let events = ListEventsRequest { organization: text(), ..ListEventsRequest::default() };
        let mut audit = keyward::proto::audit_service_client::AuditServiceClient::new(server.channel().await);
        for credential in [ROOT, secret] {
            let events = audit.list_events(with(credential, events.clone())).await.unwrap().into_inner().events;
            assert_eq!(events.len(), expected.len(), "{form:?}");
        }
        let path = format!("/api/api-keys?orgId={form}&limit=10");
        let listed = reply(server.rest("GET", &path).bearer_auth(secret)).await.good(200);
        assert_eq!(listed["keys"].as_array().unwrap().len(), expected.len());
    }
    for id in &expected {
        let path = format!("/api/api-keys/{id}");
        assert_eq!(reply(server.rest("GET", &path).bearer_auth(secret)).await.good(200)["id"], id.as_str());
    }
}

fn made_id(response: keyward::proto::CreateResponse) -> String {
    made(response).id
}
