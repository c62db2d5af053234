//! `/api/api-keys`: creating, reading, revoking keys and changing their webhooks.

use serde_json::{Value, json};

use crate::support::{
    Reply, Server, Setup, reply,
    reply::{names, until},
    server::ROOT,
};

const MANY: &str = "/api/api-keys";
const ITEM: [&str; 16] = [
    "id",
    "name",
    "prefix",
    "scopes",
    "status",
    "lastUsedAt",
    "expiresAt",
    "createdAt",
    "createdBy",
    "revokedAt",
    "orgId",
    "instanceId",
    "environment",
    "webhook",
    "metadata",
    "rateLimit",
];

fn path(key: &Value) -> String {
    format!("{MANY}/{}", key["id"].as_str().unwrap())
}

async fn as_root(server: &Server, method: &str, path: &str, body: Value) -> Reply {
    let mut request = server.rest(method, path).bearer_auth(ROOT);
    if !body.is_null() {
        request = request.json(&body);
    }
    reply(request).await
}

async fn listed(server: &Server) -> Value {
    as_root(server, "GET", MANY, Value::Null).await.good(200)
}

#[tokio::test]
async fn a_key_has_every_field_and_unset_ones_are_null() {
    let server = Setup::new().start();
    let made = as_root(&server, "POST", MANY, json!({"name": "n"})).await.good(201);
    assert_eq!(names(&made), [&ITEM[..], &["key"]].concat());
    for name in ["lastUsedAt", "expiresAt", "revokedAt", "orgId", "instanceId", "environment", "webhook", "rateLimit"] {
        assert_eq!(made[name], Value::Null, "{name}");
    }
    assert_eq!((&made["metadata"], &made["scopes"]), (&json!({}), &json!([])));
    assert_eq!((&made["status"], &made["createdBy"]), (&json!("active"), &json!("root")));
    let mut item = made.clone();
    item.as_object_mut().unwrap().shift_remove("key");
    assert_eq!(as_root(&server, "GET", &path(&made), Value::Null).await.good(200), item);
    assert_eq!(listed(&server).await, json!({"keys": [item], "nextCursor": null}));
}

#[tokio::test]
async fn a_key_can_be_created_with_every_field() {
    let server = Setup::new().start();
    let body = json!({
        "name": "Jürgen's key ✓", "scopes": ["a", "b:c"], "expiresAt": "2030-01-31T12:00:00.5+01:00", "orgId": "Acme",
        "instanceId": "eu-1", "environment": "prod", "keyspace": "default", "webhook": "https://e.example/h",
        "metadata": {"team": "pay ments", "": "x"}, "rateLimit": {"limit": 7, "windowMs": 90_500},
    });
    as_root(&server, "POST", MANY, body.clone()).await.bad(&["metadata"]);
    let mut body = body;
    body["metadata"] = json!({"team": "pay ments", "z": ""});
    let made = as_root(&server, "POST", MANY, body.clone()).await.good(201);
    assert_eq!(names(&made), [&ITEM[..], &["key", "webhookSecret"]].concat());
    for name in ["name", "scopes", "orgId", "instanceId", "environment", "webhook", "metadata", "rateLimit"] {
        assert_eq!(made[name], body[name], "{name}");
    }
    assert_eq!(made["expiresAt"], "2030-01-31T11:00:00.500Z");
    let item = as_root(&server, "GET", &path(&made), Value::Null).await.good(200);
    assert_eq!((&item["metadata"], &item["rateLimit"]), (&body["metadata"], &body["rateLimit"]));
    assert!(item.get("key").is_none() && item.get("webhookSecret").is_none());
}

#[tokio::test]
async fn names_need_not_be_unique() {
    let server = Setup::new().start();
    let (one, two) = (server.create(json!({"name": "n"})).await, server.create(json!({"name": "n"})).await);
    assert!(one["id"] != two["id"] && one["key"] != two["key"]);
}

#[tokio::test]
async fn ids_sort_by_time_of_creation() {
    let server = Setup::new().start();
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(server.create(json!({"name": "n"})).await["id"].as_str().unwrap().to_owned());
    }
    assert!(ids.is_sorted());
    let newest: Vec<Value> =
        listed(&server).await["keys"].as_array().unwrap().iter().map(|k| k["id"].clone()).collect();
    ids.reverse();
    assert_eq!(newest, ids);
}

#[tokio::test]
async fn a_revoked_key_is_kept_with_its_status_and_time() {
    let server = Setup::new().start();
    let made = server.create(json!({"name": "n"})).await;
    let revoked = as_root(&server, "DELETE", &path(&made), Value::Null).await.good(200);
    assert_eq!((names(&revoked).as_slice(), &revoked["status"]), (&ITEM[..], &json!("revoked")));
    assert!(revoked["revokedAt"].as_str().unwrap() >= made["createdAt"].as_str().unwrap());
    // A repeated call gets the same response.
    assert_eq!(as_root(&server, "DELETE", &path(&made), Value::Null).await.good(200), revoked);
    assert_eq!(as_root(&server, "GET", &path(&made), Value::Null).await.good(200), revoked);
    assert_eq!(listed(&server).await["keys"], json!([revoked]));
}

#[tokio::test]
async fn a_revocation_accepts_a_reason_and_no_other_field() {
    let server = Setup::new().start();
    let made = server.create(json!({"name": "n"})).await;
    for (body, field) in [
        (json!({"Reason": "x"}), "Reason"),
        (json!({"reason": 5}), "reason"),
        (json!({"reason": "x".repeat(201)}), "reason"),
    ] {
        as_root(&server, "DELETE", &path(&made), body).await.bad(&[field]);
    }
    assert_eq!(as_root(&server, "GET", &path(&made), Value::Null).await.good(200)["status"], "active");
    as_root(&server, "DELETE", &path(&made), json!({"reason": "leaked"})).await.good(200);
    let recorded = as_root(&server, "GET", "/api/events?type=key.revoked", Value::Null).await.good(200);
    assert_eq!(recorded["events"][0]["data"]["revokeReason"], "leaked");
}

/// `orgId` limits the search to one organization for every caller.
#[tokio::test]
async fn with_another_org_id_a_key_does_not_exist_for_operators_either() {
    let server = Setup::new().start();
    let made = server.create(json!({"name": "n", "orgId": "acme"})).await;
    let hook = json!({"webhook": "https://example.com/"});
    let foreign = format!("{}?orgId=globex", path(&made));
    for (method, body) in [("GET", Value::Null), ("PATCH", hook.clone()), ("DELETE", Value::Null)] {
        as_root(&server, method, &foreign, body).await.refused(404, "not_found");
    }
    let own = format!("{}?orgId=acme", path(&made));
    assert_eq!(as_root(&server, "GET", &own, Value::Null).await.good(200)["webhook"], json!(null));
    as_root(&server, "PATCH", &own, hook).await.good(200);
    assert_eq!(as_root(&server, "DELETE", &own, Value::Null).await.good(200)["status"], "revoked");
    let other = json!({"name": "n", "orgId": "acme"});
    as_root(&server, "POST", &format!("{MANY}?orgId=globex"), other).await.bad(&["orgId"]);
}

#[tokio::test]
async fn setting_the_same_webhook_again_is_no_change() {
    let server = Setup::new().start();
    let made = server.create(json!({"name": "n", "webhook": "https://example.com/"})).await;
    let bare = server.create(json!({"name": "n"})).await;
    let changes = async || {
        let path = "/api/events?type=webhook.updated";
        as_root(&server, "GET", path, Value::Null).await.good(200)["events"].as_array().unwrap().len()
    };
    let same = json!({"webhook": "https://example.com/"});
    let answer = as_root(&server, "PATCH", &path(&made), same.clone()).await.good(200);
    assert_eq!((&answer["webhook"], answer.get("webhookSecret")), (&json!("https://example.com/"), None));
    as_root(&server, "PATCH", &path(&bare), json!({"webhook": ""})).await.good(200);
    assert_eq!(changes().await, 0);
    as_root(&server, "PATCH", &path(&made), json!({"webhook": "https://example.com/a"})).await.good(200);
    assert_eq!(changes().await, 1);
    // For a revoked key even that is refused.
    as_root(&server, "DELETE", &path(&made), Value::Null).await.good(200);
    as_root(&server, "PATCH", &path(&made), json!({"webhook": "https://example.com/a"})).await.refused(409, "conflict");
}

#[tokio::test]
async fn an_expired_key_is_kept_and_revoked_outweighs_expired() {
    let server = Setup::new().start();
    let made = server.create_expiring(MANY, Some(ROOT), json!({"name": "n"})).await;
    until("the key expires", async || {
        (as_root(&server, "GET", &path(&made), Value::Null).await.good(200)["status"] == "expired").then_some(())
    })
    .await;
    assert_eq!(listed(&server).await["keys"][0]["status"], "expired");
    let revoked = as_root(&server, "DELETE", &path(&made), Value::Null).await.good(200);
    assert_eq!(revoked["status"], "revoked");
}

#[tokio::test]
async fn an_unknown_id_is_404_for_every_method() {
    let server = Setup::new().start();
    for id in [
        "key_01h455vb4pex5vsknk084sn02q",
        "key_",
        "key_81h455vb4pex5vsknk084sn02q",
        "nothing",
        "1",
        "..",
        "KEY_01H455VB4PEX5VSKNK084SN02Q",
        "key_01h455vb4pex5vsknk084sn02q%00",
        "%ff",
        "key%5F01h455vb4pex5vsknk084sn02q",
        "'%20OR%201=1--",
    ] {
        let path = format!("{MANY}/{id}");
        let hook = json!({"webhook": "https://e.example"});
        for (method, body) in [("GET", Value::Null), ("DELETE", Value::Null), ("PATCH", hook)] {
            let answer = as_root(&server, method, &path, body).await;
            if id == ".." {
                // The client resolves this path before it sends the request.
                assert_eq!(answer.status, 404);
                continue;
            }
            assert_eq!(answer.refused(404, "not_found"), "No such API key", "{method} {id}");
        }
    }
}

#[tokio::test]
async fn a_webhook_can_be_set_changed_and_removed() {
    let server = Setup::new().start();
    let made = server.create(json!({"name": "n"})).await;
    let patch = async |url: &str| as_root(&server, "PATCH", &path(&made), json!({ "webhook": url })).await.good(200);
    let first = patch("https://e.example/1").await;
    assert_eq!(names(&first), [&ITEM[..], &["webhookSecret"]].concat());
    assert_eq!(first["webhook"], "https://e.example/1");
    let second = patch("https://e.example/2").await;
    assert_eq!((names(&second).as_slice(), &second["webhook"]), (&ITEM[..], &json!("https://e.example/2")));
    assert_eq!(patch("").await["webhook"], Value::Null);
}

#[tokio::test]
async fn the_webhook_of_a_revoked_or_expired_key_cannot_be_changed() {
    let server = Setup::new().start();
    let revoked = server.create(json!({"name": "n", "webhook": "https://e.example/1"})).await;
    as_root(&server, "DELETE", &path(&revoked), Value::Null).await.good(200);
    let expired = server.create_expiring(MANY, Some(ROOT), json!({"name": "n"})).await;
    until("the key expires", async || {
        (as_root(&server, "GET", &path(&expired), Value::Null).await.good(200)["status"] == "expired").then_some(())
    })
    .await;
    for key in [&revoked, &expired] {
        for url in ["https://e.example/2", ""] {
            as_root(&server, "PATCH", &path(key), json!({ "webhook": url })).await.refused(409, "conflict");
        }
    }
    let item = as_root(&server, "GET", &path(&revoked), Value::Null).await.good(200);
    assert_eq!(item["webhook"], "https://e.example/1");
}

#[tokio::test]
async fn a_service_and_a_key_without_the_admin_scope_manage_nothing() {
    let server = Setup::new().ready("all").start();
    let made = server.create(json!({"name": "n", "keyspace": "noro"})).await;
    for (body, header, code) in [
        (json!({"name": "s", "keyspace": "keyward"}), "authorization", "forbidden"),
        (json!({"name": "s", "keyspace": "noro"}), "authorization", "forbidden"),
        (
            json!({"name": "s", "keyspace": "nora", "orgId": "o", "instanceId": "i", "environment": "sandbox"}),
            "x-api-key",
            "forbidden",
        ),
        (json!({"name": "s", "keyspace": "norrix", "orgId": "o"}), "authorization", "insufficient_scope"),
    ] {
        let caller = server.create(body).await;
        let credential = caller["key"].as_str().unwrap();
        let value = if header == "x-api-key" { credential.to_owned() } else { format!("Bearer {credential}") };
        // A caller without the right gets this even with a bad body, query or id, and so learns nothing about them.
        for (method, path) in [
            ("GET", MANY.to_owned()),
            ("GET", format!("{MANY}?limit=x")),
            ("POST", MANY.to_owned()),
            ("GET", path(&made)),
            ("DELETE", path(&made)),
            ("DELETE", format!("{MANY}/nothing")),
            ("PATCH", path(&made)),
        ] {
            let request = server.rest(method, &path).header(header, &value).body("{");
            reply(request).await.refused(403, code);
        }
    }
    assert_eq!(as_root(&server, "GET", &path(&made), Value::Null).await.good(200)["status"], "active");
}

#[tokio::test]
async fn an_operators_key_does_what_the_root_credential_does_until_it_is_revoked() {
    let server = Setup::new().start();
    let operator = server.create(json!({"name": "op", "keyspace": "keyward", "scopes": ["root"]})).await;
    let bearer = operator["key"].as_str().unwrap();
    let request = server.rest("POST", MANY).bearer_auth(bearer).json(&json!({"name": "n", "orgId": "anybody"}));
    let made = reply(request).await.good(201);
    assert_eq!(made["createdBy"], format!("key:{}", operator["id"].as_str().unwrap()));
    reply(server.rest("DELETE", &path(&operator)).bearer_auth(bearer)).await.good(200);
    reply(server.rest("GET", MANY).bearer_auth(bearer)).await.refused(401, "revoked");
}
