//! Real gateways (`tests/run` installs them), with the files that users copy, which ask an agent in place of a replica:
//! Envoy over its Unix socket, nginx over loopback.

use axum::{Router, http::HeaderMap};
use keyward::proto::CreateRequest;

use crate::{
    LONG,
    gateway::{Behind, Gateway, Kind},
    key,
    process::{Agent, AgentSetup},
    raw::Response,
    service_key,
    support::{
        Server, Setup,
        grpc::{self, eventually, texts},
    },
};

/// An API that says whose request has reached it.
async fn api() -> u16 {
    let echo = async |headers: HeaderMap| {
        assert!(!headers.contains_key("authorization"), "the credential is removed");
        format!("{:?}", headers.get("x-keyward-organization"))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(echo)).await });
    port
}

/// A gateway before an agent of a replica.
struct Scene {
    server: Server,
    agent: Agent,
    gateway: Gateway,
}

impl Scene {
    async fn of(kind: Kind) -> Self {
        let server = Setup::new().ready("all").env("KEYWARD_ATTACH_LEASE", "1s").start();
        let config = server.folder().join("keyward.toml").display().to_string();
        let credential = service_key(&server, &["norrix"]).await.secret;
        let agent = AgentSetup::of(&server).credential(&credential).arg("--config", &config).start().await;
        let grpc = format!("unix:{}", agent.socket.display());
        let (http, credential, product) = (&agent.http, &credential, "norrix");
        let behind = Behind { http, grpc: &grpc, credential, product, upstream: api().await };
        let gateway = Gateway::launch(kind, &behind).await;
        Self { server, agent, gateway }
    }

    async fn get(&self, secret: &str) -> (u16, String) {
        let bearer = format!("Bearer {secret}");
        let Response { status, body, .. } = self.gateway.send("GET", "/api/build", &[("Authorization", &bearer)]).await;
        (status, String::from_utf8(body).unwrap())
    }
}

/// Requests pass and are refused, by memory too. A revoked key is refused on the next request. Without the replica, and
/// once the lease is over, nothing passes.
async fn gets_its_answers_from_an_agent(kind: Kind) {
    let mut scene = Scene::of(kind).await;
    let of = |scope: &str| CreateRequest {
        keyspace: "norrix".into(),
        organization: "acme".into(),
        scopes: texts(&[scope]),
        ..CreateRequest::default()
    };
    let (build, submit) = (key(&scene.server, of("build")).await, key(&scene.server, of("submit")).await);
    eventually(LONG, "memory answers the gateway", async || {
        let before = scene.agent.answered_by_memory("check").await;
        assert_eq!(scene.get(&build.secret).await, (200, "Some(\"acme\")".to_owned()));
        scene.agent.answered_by_memory("check").await > before
    })
    .await;
    let (status, body) = scene.get(&submit.secret).await;
    assert!(status == 403 && body.contains("\"insufficient_scope\""), "{status} {body}");
    assert_eq!(scene.get("nrx_forged").await.0, 401);
    grpc::revoke(&mut scene.server.client().await, &build.id).await;
    let (status, body) = scene.get(&build.secret).await;
    assert!(status == 401 && body.contains("\"revoked\""), "{status} {body}");
    scene.server.signal("KILL");
    scene.server.wait();
    eventually(LONG, "nothing passes", async || scene.get(&submit.secret).await.0 == 503).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_gets_its_answers_from_an_agent_over_a_unix_socket() {
    gets_its_answers_from_an_agent(Kind::Envoy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_gets_its_answers_from_an_agent_over_loopback() {
    gets_its_answers_from_an_agent(Kind::Nginx).await;
}
