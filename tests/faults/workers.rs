//! Workers that panic are started again. The switch `panic_<worker>` makes a worker panic once, half a second after it
//! started.

use std::{sync::Arc, time::Duration};

use keyward::proto::{Code, ListRequest};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    ProxiedDatabase,
    receiver::{Receiver, Reply},
    support::{
        Server, Setup,
        grpc::{code, eventually, key},
        reply::until,
        server::{ROOT, with},
    },
};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Every worker of a server without TLS, but the follower.
const WORKERS: [&str; 13] = [
    "revocation_reader",
    "usage_flush",
    "rate_limit_events",
    "limit_sweep",
    "metrics_upkeep",
    "event_sweep",
    "session_keys",
    "readiness",
    "webhooks",
    "http_listener",
    "metrics_listener",
    "grpc_listener",
    "grpc_thread",
];

async fn metrics(server: &Server) -> String {
    let url = format!("http://{}/metrics", server.metrics.as_ref().unwrap_or(&server.http));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    match client.get(url).send().await {
        Ok(response) => response.text().await.unwrap(),
        Err(_) => String::new(),
    }
}

async fn has_panicked(server: &Server, worker: &str) {
    server.logged(&format!("worker panicked, restarting worker=\"{worker}\"")).await;
    let counted = format!("keyward_worker_panics_total{{worker=\"{worker}\"}} 1");
    until(&counted, async || metrics(server).await.contains(&counted).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_worker_that_panics_is_started_again() {
    let receiver = Receiver::start(|_, _| Reply::Status(200, "")).await;
    let faults = WORKERS.map(|worker| format!("panic_{worker}")).join(",");
    let config = "[webhooks]\nallow_http = true\nallow_cidrs = [\"127.0.0.0/8\"]\n\
         [[keyspace]]\nname = \"limited\"\nprefix = \"lim_\"\ncredential = \"bearer\"\n\
         secret = { encoding = \"alphanumeric\", length = 32 }\nrate_limit = { limit = 1, window = \"60s\" }\n";
    let server = Setup::new()
        .config(config)
        .delivering()
        .env("KEYWARD_METRICS_ADDR", "127.0.0.1:0")
        .env("KEYWARD_FAULTS", &faults)
        .start();
    for worker in WORKERS {
        has_panicked(&server, worker).await;
    }
    // The panics themselves are in the log, too.
    assert!(server.log().matches("the fault switch panic_").count() >= WORKERS.len(), "{}", server.log());
    // REST, gRPC, the deliverer, the flush of usage and of refusals: each does its work again.
    let made = server.create(json!({"name": "n", "webhook": receiver.url("/")})).await;
    receiver.wait_for(1).await;
    let mut client = server.client().await;
    let id = made["id"].as_str().unwrap();
    assert_eq!(code(&mut client, made["key"].as_str().unwrap()).await, Code::Valid);
    assert_eq!(code(&mut client, made["key"].as_str().unwrap()).await, Code::RateLimited);
    until("the use is shown", async || {
        let (_, key) = server.call("GET", &format!("/api/api-keys/{id}"), Some(ROOT), Value::Null).await;
        key["lastUsedAt"].is_string().then_some(())
    })
    .await;
    until("the refusal is an event", async || {
        let (_, events) = server.call("GET", "/api/events", Some(ROOT), Value::Null).await;
        events.to_string().contains("key.rate_limited").then_some(())
    })
    .await;
    eventually(TIMEOUT, "the server is ready", async || {
        server.rest("GET", "/readyz").send().await.unwrap().status() == 200
    })
    .await;
    let mut health = HealthClient::new(server.channel().await);
    until("health is SERVING", async || {
        let answer = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
        (answer.status() == ServingStatus::Serving).then_some(())
    })
    .await;
}

/// A listener that panics keeps its port and the connections that it has accepted.
#[tokio::test(flavor = "multi_thread")]
async fn open_connections_outlive_the_panic_of_their_listener() {
    let server = Setup::new().env("KEYWARD_FAULTS", "panic_grpc_listener,panic_grpc_thread").start();
    let mut client = server.client().await;
    has_panicked(&server, "grpc_listener").await;
    has_panicked(&server, "grpc_thread").await;
    client.list(with(ROOT, ListRequest::default())).await.unwrap();
    server.client().await.list(with(ROOT, ListRequest::default())).await.unwrap();
}

/// Revokes go on once the reader of replicas' rows runs again, also one that waited meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_outlives_the_panic_of_the_reader_that_it_waits_for() {
    let database = ProxiedDatabase::new().await;
    let _other = Setup::new().database(&database.url).start();
    let server = Setup::new().database(&database.url).env("KEYWARD_FAULTS", "panic_revocation_reader").start();
    let mut client = server.client().await;
    for _ in 0..2 {
        let made = key(&mut client, "", "", &[]).await;
        let end = keyward::proto::RevokeRequest { id: made.id.clone(), reason: String::new() };
        client.revoke(with(ROOT, end)).await.unwrap();
        assert_eq!(code(&mut client, &made.secret).await, Code::Revoked);
        has_panicked(&server, "revocation_reader").await;
    }
}

/// The follower panics in the midst of its renewals, and again while it applies a revocation. Until it has joined anew, no
/// answer comes from memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_follower_panics_never_answers_from_an_older_state() {
    let database = ProxiedDatabase::new().await;
    let faults = "panic_follower,panic_follower_apply";
    let other = Setup::new().database(&database.url).start();
    let server = Setup::new().database(&database.url).env("KEYWARD_FAULTS", faults).start();
    server.logged("worker panicked, restarting worker=\"follower\"").await;
    let joined = async |times| {
        until("it has joined again", async || (server.log().matches("joined replica=").count() >= times).then_some(()))
            .await;
    };
    joined(2).await;
    let (mut client, mut revoker) = (server.client().await, other.client().await);
    let made = key(&mut client, "", "", &[]).await;
    assert_eq!(code(&mut client, &made.secret).await, Code::Valid);
    // Checks go on all the while. None that began after Revoke had returned may be VALID.
    let (ended, prober) = (Arc::new(Notify::new()), client.clone());
    let secret = made.secret.clone();
    let stop = Arc::clone(&ended);
    let checks = tokio::spawn(async move {
        let mut stopped = std::pin::pin!(stop.notified());
        let mut client = prober;
        loop {
            tokio::select! {
                () = &mut stopped => return,
                _ = code(&mut client, &secret) => {}
            }
        }
    });
    let end = keyward::proto::RevokeRequest { id: made.id.clone(), reason: String::new() };
    revoker.revoke(with(ROOT, end)).await.unwrap();
    assert_eq!(code(&mut client, &made.secret).await, Code::Revoked);
    ended.notify_one();
    checks.await.unwrap();
    joined(3).await;
    assert_eq!(code(&mut client, &made.secret).await, Code::Revoked);
    let counted = "keyward_worker_panics_total{worker=\"follower\"} 2";
    until(counted, async || metrics(&server).await.contains(counted).then_some(())).await;
    // It goes on as before.
    let fresh = key(&mut client, "", "", &[]).await;
    assert_eq!(code(&mut client, &fresh.secret).await, Code::Valid);
}
