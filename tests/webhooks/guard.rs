//! Where deliveries are not sent, and who sees responses.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::json;

use super::{
    fixture::{hooked, local, local_within, patch, server, settled},
    receiver::{Receiver, Reply},
};
use crate::support::{Setup, reply, server::ROOT};

#[tokio::test]
async fn a_url_that_is_not_allowed_is_refused_when_it_is_set() {
    let server = Setup::new().start();
    let made = server.create(json!({"name": "n"})).await;
    let one = format!("/api/api-keys/{}", made["id"].as_str().unwrap());
    for url in [
        "https://127.0.0.1/",
        "https://0x7f.1/",
        "https://2130706433/",
        "https://localhost/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest",
        "http://example.com/",
        "https://user@example.com/",
        "https://example.com:22/",
    ] {
        let body = json!({"name": "n", "webhook": url});
        reply(server.rest("POST", "/api/api-keys").bearer_auth(ROOT).json(&body)).await.bad(&["webhook"]);
        let body = json!({"webhook": url});
        reply(server.rest("PATCH", &one).bearer_auth(ROOT).json(&body)).await.bad(&["webhook"]);
    }
    // A name is not resolved when a webhook is set.
    patch(&server, made["id"].as_str().unwrap(), json!({"webhook": "https://not-resolved.invalid/"})).await;
}

#[tokio::test]
async fn a_url_that_is_no_longer_allowed_is_refused_when_it_is_sent() {
    let receiver = Receiver::start(|_, _| Reply::Status(500, "")).await;
    let folder = tempfile::tempdir().unwrap();
    let lax = Setup::new().config(&local_within("2s", "[\"300ms\"]")).folder(folder.path()).delivering().start();
    hooked(&lax, &receiver.url("/")).await;
    receiver.wait_for(1).await;
    drop(lax);
    let count = receiver.requests().len();
    let strict = "[webhooks]\nallow_http = true\nretries = []\n";
    let strict = Setup::new().config(strict).folder(folder.path()).delivering().start();
    let row = settled(&strict, "failed").await;
    assert_eq!(row.last_error, "the URL must not name an address that is not public");
    assert_eq!(receiver.requests().len(), count);
}

#[tokio::test]
async fn proxies_of_the_environment_are_not_used() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || listener.incoming().for_each(|_| _ = count.fetch_add(1, Ordering::SeqCst)));
    let receiver = Receiver::good().await;
    let mut setup = Setup::new().config(&local("[]")).delivering();
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        setup = setup.env(name, &proxy);
    }
    let server = setup.start();
    hooked(&server, &receiver.url("/")).await;
    settled(&server, "delivered").await;
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_beginning_of_a_response_is_stored() {
    let long: &'static str = Box::leak("x".repeat(100_000).into_boxed_str());
    let receiver = Receiver::start(move |_, _| Reply::Status(500, long)).await;
    let server = server("[]");
    hooked(&server, &receiver.url("/")).await;
    assert_eq!(settled(&server, "failed").await.last_response, "x".repeat(1_024));
}

#[tokio::test]
async fn only_operators_see_a_response() {
    let receiver = Receiver::start(move |_, _| Reply::Status(500, "what only this server can reach")).await;
    let norrix = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/norrix.toml")).unwrap();
    let server = Setup::new().config(&norrix).and(&local("[]")).delivering().start();
    let admin = server.create(json!({"name": "a", "orgId": "acme", "scopes": ["admin"]})).await;
    let made = server.create(json!({"name": "n", "orgId": "acme", "webhook": receiver.url("/")})).await;
    settled(&server, "failed").await;
    let event = made["id"].as_str().unwrap().replacen("key_", "evt_", 1);
    let path = format!("/api/events/{event}/deliveries");
    for (credential, shown) in
        [(ROOT, json!("what only this server can reach")), (admin["key"].as_str().unwrap(), json!(null))]
    {
        let page = reply(server.rest("GET", &path).bearer_auth(credential)).await.good(200);
        let delivery = &page["deliveries"][0];
        assert_eq!((&delivery["lastStatus"], &delivery["lastResponse"]), (&json!(500), &shown));
    }
}
