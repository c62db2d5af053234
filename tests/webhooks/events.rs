//! Which events are delivered, to whom, and in what form.

use serde_json::{Value, json};

use super::{
    fixture::{deliveries, hooked, local_within, patch, revoke, server, settled},
    receiver::{Receiver, Reply},
};
use crate::support::{Server, Setup, server::ROOT};

#[tokio::test]
async fn every_change_of_a_key_reaches_its_webhook_signed_and_without_a_secret() {
    let receiver = Receiver::good().await;
    let server = server("[]");
    let key = hooked(&server, &receiver.url("/hook?a=1")).await;
    receiver.wait_for(1).await;
    patch(&server, &key.id, json!({"webhook": receiver.url("/new")})).await;
    receiver.wait_for(2).await;
    revoke(&server, &key.id).await;
    let requests = receiver.wait_for(3).await;
    let kinds: Vec<_> = requests.iter().map(|request| (request.kind(), request.path.as_str())).collect();
    let expected = [("key.created", "/hook?a=1"), ("webhook.updated", "/new"), ("key.revoked", "/new")];
    assert_eq!(kinds, expected.map(|(kind, path)| (kind.to_owned(), path)));
    let secret = key.made["key"].as_str().unwrap();
    for request in &requests {
        assert!(request.is_by(&key.secret), "{request:?}");
        assert_eq!(request.header("content-type"), "application/json");
        assert_eq!(request.header("host"), receiver.url("").trim_start_matches("http://"));
        assert!(request.header("user-agent").starts_with("Keyward/"));
        assert!(request.header("webhook-id").starts_with("evt_"));
        let text = String::from_utf8(request.body.clone()).unwrap();
        assert!(!text.contains(secret) && !text.contains(&key.secret) && !text.contains("digest"), "{text}");
        assert_eq!(request.json()["data"]["id"], key.id.as_str());
    }
    let ids: std::collections::HashSet<_> = requests.iter().map(|request| request.header("webhook-id")).collect();
    assert_eq!(ids.len(), 3);
    let data = |at: usize| requests[at].json()["data"].clone();
    assert_eq!((&data(0)["status"], &data(0)["webhook"]), (&json!("active"), &json!(receiver.url("/hook?a=1"))));
    assert_eq!((&data(2)["status"], &data(2)["revokedBy"]), (&json!("revoked"), &json!("root")));
    assert!(data(2)["revokedAt"].is_string());
}

#[tokio::test]
async fn the_body_is_what_the_documentation_shows() {
    let documented = include_str!("../../docs/webhooks.md");
    let begin = documented.find("```json\n").unwrap() + 8;
    let documented: Value =
        serde_json::from_str(&documented[begin..begin + documented[begin..].find("```").unwrap()]).unwrap();
    let receiver = Receiver::good().await;
    let server = server("[]");
    let key = hooked(&server, &receiver.url("/")).await;
    revoke(&server, &key.id).await;
    let requests = receiver.wait_for(2).await;
    let delivered = requests.iter().find(|request| request.kind() == "key.revoked").unwrap().json();
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&delivered), names(&documented));
    assert_eq!(names(&delivered["data"]), names(&documented["data"]));
    let form = |value: &Value| value.as_str().unwrap().replace(|c: char| c.is_ascii_digit(), "0");
    assert_eq!(form(&delivered["timestamp"]), form(&documented["timestamp"]));
}

#[tokio::test]
async fn a_key_without_a_webhook_has_no_deliveries() {
    let receiver = Receiver::good().await;
    let server = server("[]");
    let silent = server.create(json!({"name": "silent"})).await;
    revoke(&server, silent["id"].as_str().unwrap()).await;
    let key = hooked(&server, &receiver.url("/")).await;
    receiver.wait_for(1).await;
    patch(&server, &key.id, json!({"webhook": ""})).await;
    revoke(&server, &key.id).await;
    // Delivered after all of those.
    let last = hooked(&server, &receiver.url("/last")).await;
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests[1].json()["data"]["id"], last.id.as_str());
    assert_eq!(deliveries(&server).await.len(), 2);
}

#[tokio::test]
async fn a_delivery_that_is_due_when_its_webhook_is_removed_is_not_sent() {
    let receiver = Receiver::start(|_, _| Reply::Status(500, "")).await;
    let server = server("[\"700ms\"]");
    let key = hooked(&server, &receiver.url("/")).await;
    receiver.wait_for(1).await;
    patch(&server, &key.id, json!({"webhook": ""})).await;
    let row = settled(&server, "failed").await;
    assert_eq!(row.last_error, "the key has no webhook any more");
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn a_change_is_delivered_although_the_server_is_killed_right_after() {
    let receiver = Receiver::good().await;
    let folder = tempfile::tempdir().unwrap();
    // Nothing can be delivered while nothing listens at the URL.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = || Setup::new().config(&local_within("2s", "[\"100ms\"]")).folder(folder.path()).delivering().start();
    let first = start();
    let key = hooked(&first, &format!("http://127.0.0.1:{port}/")).await;
    patch(&first, &key.id, json!({"webhook": receiver.url("/")})).await;
    revoke(&first, &key.id).await;
    drop(first);
    let _second = start();
    let enough = receiver.wait_until("the revocation", |all| all.iter().any(|one| one.kind() == "key.revoked")).await;
    assert!(enough.iter().all(|request| request.is_by(&key.secret)));
}

#[tokio::test]
async fn attempts_and_latencies_are_measured() {
    let receiver = Receiver::start(|number, _| Reply::Status(if number == 0 { 503 } else { 204 }, "")).await;
    let server = server("[\"50ms\"]");
    hooked(&server, &receiver.url("/")).await;
    settled(&server, "delivered").await;
    let metrics = async |server: &Server| server.rest("GET", "/metrics").send().await.unwrap().text().await.unwrap();
    let text = crate::support::reply::until("both attempts are counted", async || {
        let text = metrics(&server).await;
        text.contains("keyward_webhook_delivery_seconds_count 1").then_some(text)
    })
    .await;
    for line in [
        "keyward_webhook_attempts_total{outcome=\"rejected\"} 1",
        "keyward_webhook_attempts_total{outcome=\"delivered\"} 1",
        "keyward_webhook_attempts_total{outcome=\"timed_out\"} 0",
        "keyward_webhook_pending 0",
        "keyward_webhook_overdue_seconds 0",
    ] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
    // Neither a signing secret nor the operator's key is in the log.
    assert!(!server.log().contains("whsec_") && !server.log().contains(ROOT));
}
