//! Norrix, "API Keys", revocation: "any active requests will fail". The endpoint is a service that is guarded by the
//! client's layer; the key is revoked as its owner does it.

use std::time::Duration;

use axum::{Router, routing::get};
use futures::{StreamExt as _, stream};
use keyward_client::{AttachOptions, Client, KeywardLayer, layer::Route};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::timeout};

use crate::support::{Setup, reply, server::ROOT};

/// Long enough on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// A build's log, which is sent as it grows. It is never whole in this test.
async fn log() -> axum::body::Body {
    let lines = stream::iter([Ok::<_, std::io::Error>("compiling\n")]).chain(stream::pending());
    axum::body::Body::from_stream(lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn active_requests_of_a_revoked_key_fail() {
    let server = Setup::new().ready("norrix").start();
    let client = Client::builder(format!("http://{}", server.grpc)).credential(ROOT).build().unwrap();
    client.attach(AttachOptions::default()).unwrap();
    let guard = KeywardLayer::builder(client, "norrix").route(Route::at("/build/*").scope("build")).end_work();
    let endpoint = Router::new()
        .route("/build", get(async || std::future::pending::<String>().await))
        .route("/build/log", get(log))
        .layer(guard.build().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, endpoint).await });

    let made = server.create(json!({"name": "GitHub Actions", "orgId": "org_abc123", "scopes": ["build"]})).await;
    let admin = server.create(json!({"name": "Owner", "orgId": "org_abc123", "scopes": ["admin"]})).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = |path: &str| http.get(format!("{url}{path}")).bearer_auth(made["key"].as_str().unwrap());
    let waiting = tokio::spawn(request("/build").send());
    let mut growing = request("/build/log").send().await.unwrap();
    assert_eq!(growing.chunk().await.unwrap().as_deref(), Some(&b"compiling\n"[..]));

    let path = format!("/api/api-keys/{}", made["id"].as_str().unwrap());
    reply(server.rest("DELETE", &path).bearer_auth(admin["key"].as_str().unwrap())).await.good(200);
    let ended = timeout(LONG, waiting).await.expect("it ends").unwrap().unwrap();
    assert_eq!(ended.status(), 401);
    let body: Value = ended.json().await.unwrap();
    let expected = json!({"error": "Unauthorized", "message": "Invalid or expired API key", "code": "revoked"});
    assert_eq!(body, expected);
    timeout(LONG, growing.chunk()).await.expect("it ends").expect_err("the log is not whole");
}
