//! Which attempts are repeated, and when.

use std::time::Duration;

use serde_json::json;

use super::{
    fixture::{deliveries, hooked, patch, server, settled},
    receiver::{Receiver, Reply},
};

#[tokio::test]
async fn a_failed_attempt_is_repeated_with_the_same_id_and_a_new_signature() {
    let receiver = Receiver::start(|number, _| Reply::Status([500, 302, 200][number.min(2)], "")).await;
    let server = server("[\"100ms\", \"1500ms\", \"1h\"]");
    let key = hooked(&server, &receiver.url("/")).await;
    let requests = receiver.wait_for(3).await;
    let row = settled(&server, "delivered").await;
    assert_eq!((row.attempts, row.last_status, row.last_error.as_str()), (3, Some(200), ""));
    let id = requests[0].header("webhook-id");
    for request in &requests {
        assert!(request.is_by(&key.secret));
        assert_eq!((request.header("webhook-id"), &request.body), (id, &requests[0].body));
    }
    let timestamp = |at: usize| requests[at].header("webhook-timestamp").parse::<i64>().unwrap();
    assert!(timestamp(2) > timestamp(0), "signed at the time of the attempt");
    // The waits of the schedule, which vary by a tenth.
    let wait = |at: usize| requests[at + 1].at - requests[at].at;
    assert!(
        wait(0) >= Duration::from_millis(90) && wait(1) >= Duration::from_millis(1_350),
        "{:?}",
        (wait(0), wait(1))
    );
}

#[tokio::test]
async fn a_delivery_fails_after_the_last_attempt_and_keeps_the_response() {
    let receiver = Receiver::start(|_, _| Reply::Status(500, "the reason")).await;
    let server = server("[\"20ms\", \"20ms\"]");
    hooked(&server, &receiver.url("/")).await;
    let row = settled(&server, "failed").await;
    assert_eq!((row.attempts, row.last_status), (3, Some(500)));
    assert_eq!((row.last_error.as_str(), row.last_response.as_str()), ("answered 500", "the reason"));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(receiver.requests().len(), 3);
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let receiver = Receiver::start(|_, _| Reply::Status(307, "")).await;
    let server = server("[]");
    hooked(&server, &receiver.url("/")).await;
    let row = settled(&server, "failed").await;
    assert_eq!((row.last_status, row.last_error.as_str()), (Some(307), "redirects are not followed"));
    let paths: Vec<_> = receiver.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/"]);
}

#[tokio::test]
async fn a_refused_connection_is_a_failure_with_its_reason() {
    let server = server("[]");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    hooked(&server, &format!("http://127.0.0.1:{port}/")).await;
    let row = settled(&server, "failed").await;
    assert_eq!((row.last_status, row.last_error.as_str()), (None, "could not connect: connection refused"));
}

#[tokio::test]
async fn a_receiver_that_answers_410_disables_its_webhook() {
    let receiver = Receiver::start(|number, _| Reply::Status(if number == 0 { 200 } else { 410 }, "")).await;
    let server = server("[\"50ms\"]");
    let key = hooked(&server, &receiver.url("/a")).await;
    receiver.wait_for(1).await;
    patch(&server, &key.id, json!({"webhook": receiver.url("/b")})).await;
    let item = crate::support::reply::until("the webhook is gone", async || {
        let path = format!("/api/api-keys/{}", key.id);
        let root = Some(crate::support::server::ROOT);
        let (_, item) = server.call("GET", &path, root, serde_json::Value::Null).await;
        item["webhook"].is_null().then_some(item)
    })
    .await;
    assert_eq!(item["status"], "active", "the key itself stays active");
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    let rows = deliveries(&server).await;
    let states: Vec<_> = rows.iter().map(|row| (row.kind.as_str(), row.state.as_str(), row.last_status)).collect();
    assert_eq!(states, [("key.created", "delivered", Some(200)), ("webhook.updated", "failed", Some(410))]);
    assert_eq!(receiver.requests().len(), 2, "nothing is sent afterwards");
    // A new URL enables it again, with the same secret.
    let again = patch(&server, &key.id, json!({"webhook": Receiver::good().await.url("/")})).await;
    assert!(again.get("webhookSecret").is_none(), "{again}");
}
