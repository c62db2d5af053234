//! `/api/events` over REST.

use serde_json::{Value, json};

use crate::support::{
    Server, Setup, reply,
    reply::{names, until},
    server::ROOT,
};

const EVENT: [&str; 7] = ["id", "type", "timestamp", "actor", "keyId", "data", "details"];
const DELIVERY: [&str; 11] = [
    "eventId",
    "keyId",
    "host",
    "state",
    "attempts",
    "nextAttemptAt",
    "lastAttemptAt",
    "settledAt",
    "lastStatus",
    "lastError",
    "lastResponse",
];

async fn get(server: &Server, credential: &str, path: &str) -> Value {
    reply(server.rest("GET", path).bearer_auth(credential)).await.good(200)
}

#[tokio::test]
async fn events_are_listed_filtered_and_paged() {
    let server = Setup::new().start();
    let made = server.create(json!({"name": "n", "orgId": "acme", "metadata": {"a": "b"}})).await;
    let other = server.create(json!({"name": "m", "orgId": "other"})).await;
    let id = made["id"].as_str().unwrap();
    reply(server.rest("DELETE", &format!("/api/api-keys/{id}")).bearer_auth(ROOT)).await.good(200);
    let page = get(&server, ROOT, "/api/events").await;
    assert_eq!(names(&page), ["events", "nextCursor"]);
    let events = page["events"].as_array().unwrap();
    let kinds: Vec<_> = events.iter().map(|event| (&event["type"], &event["keyId"])).collect();
    let (revoked, created) = (json!("key.revoked"), json!("key.created"));
    assert_eq!(kinds, [(&revoked, &made["id"]), (&created, &other["id"]), (&created, &made["id"])]);
    for event in events {
        assert_eq!(names(event), EVENT);
        assert_eq!((&event["actor"], &event["data"]["id"]), (&json!("root"), &event["keyId"]));
        assert!(event["data"].get("key").is_none() && event["data"].get("digest").is_none());
    }
    assert_eq!(events[2]["timestamp"], made["createdAt"]);
    assert_eq!(events[0]["timestamp"], events[0]["data"]["revokedAt"]);
    assert_eq!((&events[2]["data"]["status"], &events[0]["data"]["status"]), (&json!("active"), &json!("revoked")));
    assert_eq!((&events[2]["data"]["metadata"], &events[2]["data"]["orgId"]), (&json!({"a": "b"}), &json!("acme")));

    let ids = |page: &Value| -> Vec<Value> {
        page["events"].as_array().unwrap().iter().map(|event| event["id"].clone()).collect()
    };
    let all = ids(&page);
    let at = |index: usize| events[index]["timestamp"].as_str().unwrap().to_owned();
    for (query, expected) in [
        ("type=key.revoked".to_owned(), &all[..1]),
        ("orgId=other&actor=root".to_owned(), &all[1..2]),
        (format!("keyId={id}&type=key.created"), &all[2..]),
        ("actor=public".to_owned(), &all[..0]),
        (format!("until={}", at(2)), &all[..0]),
        (format!("since={}", at(2)), &all[..]),
    ] {
        assert_eq!(ids(&get(&server, ROOT, &format!("/api/events?{query}")).await), expected, "{query}");
    }
    let first = get(&server, ROOT, "/api/events?limit=2").await;
    let next = format!("/api/events?limit=2&cursor={}", first["nextCursor"].as_str().unwrap());
    let second = get(&server, ROOT, &next).await;
    assert_eq!([ids(&first), ids(&second)].concat(), all);
    assert_eq!(second["nextCursor"], Value::Null);
    for (query, fields) in [
        ("type=x&keyId=y", &["keyId", "type"][..]),
        ("since=yesterday", &["since"]),
        ("since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", &["until"]),
        ("limit=1001", &["limit"]),
        ("cursor=x", &["cursor"]),
        ("status=active", &["status"]),
    ] {
        reply(server.rest("GET", &format!("/api/events?{query}")).bearer_auth(ROOT)).await.bad(fields);
    }
}

#[tokio::test]
async fn a_caller_that_may_not_list_keys_may_not_read_events() {
    let server = Setup::new().ready("norrix").start();
    let admin = server.create(json!({"name": "a", "orgId": "acme", "scopes": ["admin"]})).await;
    let plain = server.create(json!({"name": "b", "orgId": "acme"})).await;
    let foreign = server.create(json!({"name": "c", "orgId": "other"})).await;
    let [admin_key, plain_key] = [&admin, &plain].map(|key| key["key"].as_str().unwrap());
    let seen = get(&server, admin_key, "/api/events").await;
    let keys: Vec<_> = seen["events"].as_array().unwrap().iter().map(|event| &event["keyId"]).collect();
    assert_eq!(keys, [&plain["id"], &admin["id"]]);
    let event = foreign["id"].as_str().unwrap().replacen("key_", "evt_", 1);
    let [deliveries, redeliver] = ["deliveries", "redeliver"].map(|what| format!("/api/events/{event}/{what}"));
    let calls = [("GET", "/api/events"), ("GET", deliveries.as_str()), ("POST", redeliver.as_str())];
    for (method, path) in calls {
        reply(server.rest(method, path)).await.refused(401, "missing_credential");
        reply(server.rest(method, path).bearer_auth(plain_key)).await.refused(403, "insufficient_scope");
        let other = format!("{path}?orgId=other");
        reply(server.rest(method, &other).bearer_auth(admin_key)).await.refused(403, "forbidden");
    }
    for (method, path) in [calls[1], calls[2], ("GET", "/api/events/none/deliveries")] {
        let message = reply(server.rest(method, path).bearer_auth(admin_key)).await.refused(404, "not_found");
        assert_eq!(message, "No such event");
    }
}

#[tokio::test]
async fn a_delivery_is_shown_and_can_be_repeated() {
    let server = Setup::new()
        .and("[webhooks]\nretries = []\nallow_cidrs = [\"127.0.0.0/8\"]\ndeny_ports = []")
        .delivering()
        .start();
    let made = server.create(json!({"name": "n", "webhook": "https://127.0.0.1:1/x"})).await;
    let bare = server.create(json!({"name": "n"})).await;
    let [event, none] = [&made, &bare].map(|key| key["id"].as_str().unwrap().replacen("key_", "evt_", 1));
    let shown = async |event: &str| {
        let page = get(&server, ROOT, &format!("/api/events/{event}/deliveries")).await;
        assert_eq!(names(&page), ["deliveries"]);
        page["deliveries"].as_array().unwrap().clone()
    };
    let failed = until("the delivery fails", async || {
        let delivery = shown(&event).await.remove(0);
        (delivery["state"] == "failed").then_some(delivery)
    })
    .await;
    assert_eq!(names(&failed), DELIVERY);
    assert_eq!(
        (&failed["attempts"], &failed["nextAttemptAt"], &failed["lastStatus"]),
        (&json!(1), &json!(null), &json!(null))
    );
    let again = reply(server.rest("POST", &format!("/api/events/{event}/redeliver")).bearer_auth(ROOT)).await.good(200);
    assert_eq!(
        (&again["state"], &again["settledAt"], names(&again).len()),
        (&json!("pending"), &json!(null), DELIVERY.len())
    );
    assert_eq!(shown(&none).await, Vec::<Value>::new());
    let refused = reply(server.rest("POST", &format!("/api/events/{none}/redeliver")).bearer_auth(ROOT)).await;
    refused.refused(409, "conflict");
    let path = format!("/api/events/{event}/redeliver");
    reply(server.rest("POST", &path).bearer_auth(ROOT).json(&json!({"force": true}))).await.bad(&["force"]);
}

#[tokio::test]
async fn an_event_shows_the_keys_own_rate_limit() {
    let server = Setup::new().ready("noro").start();
    let limited = json!({"name": "n", "rateLimit": {"limit": 7, "windowMs": 60_000}});
    let made = server.create(limited.clone()).await;
    let recorded = get(&server, ROOT, "/api/events").await["events"][0]["data"].clone();
    assert_eq!((&recorded["id"], &recorded["rateLimit"]), (&made["id"], &limited["rateLimit"]));
    assert!(recorded.get("keyspaces").is_none());
    let service = json!({"keyspace": "keyward", "name": "s", "scopes": ["verify"], "keyspaces": ["noro"]});
    server.create(service).await;
    let recorded =
        get(&server, ROOT, "/api/events?keyspace=keyward&type=key.created").await["events"][0]["data"].clone();
    assert_eq!((&recorded["keyspaces"], &recorded["rateLimit"]), (&json!(["noro"]), &json!(null)));
}
