//! A real Envoy (`tests/run` installs it), with the file that users copy, which asks an agent over its Unix socket.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use axum::{Router, http::HeaderMap};
use keyward::proto::CreateRequest;

use crate::{
    LONG, key,
    process::{Agent, AgentSetup},
    service_key,
    support::{
        Setup,
        grpc::{self, eventually, texts},
    },
};

/// A running Envoy; it is killed when this is dropped.
struct Envoy {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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

impl Envoy {
    async fn start(agent: &Agent, credential: &str, api: u16) -> Self {
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            // Envoy cannot choose a port itself and say which.
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/gateways/envoy.yaml");
            let mut text = std::fs::read_to_string(path).unwrap();
            let keyward = "socket_address: { address: 127.0.0.1, port_value: 50051 }";
            for (from, to) in [
                ("address: 0.0.0.0, port_value: 8000", format!("address: 127.0.0.1, port_value: {port}")),
                ("port_value: 3000", format!("port_value: {api}")),
                (keyward, format!("pipe: {{ path: {} }}", agent.socket.display())),
                // A socket has no name to be resolved.
                (
                    "    - name: keyward\n      connect_timeout: 1s\n      type: STRICT_DNS",
                    "    - name: keyward\n      connect_timeout: 1s\n      type: STATIC".to_owned(),
                ),
            ] {
                assert!(text.contains(from), "envoy.yaml has {from:?}");
                text = text.replace(from, &to);
            }
            let file = folder.path().join("envoy.yaml");
            std::fs::write(&file, text).unwrap();
            let programs = std::env::var("KEYWARD_TEST_GATEWAYS").expect("KEYWARD_TEST_GATEWAYS: tests/run sets it");
            let mut command = Command::new(Path::new(&programs).join("bin/envoy-binary"));
            command.arg("-c").arg(file).args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]);
            command.env("KEYWARD_GATEWAY_KEY", credential).stdout(Stdio::null());
            let child = command.spawn().unwrap();
            let mut envoy = Self { child, address: format!("127.0.0.1:{port}"), _folder: folder };
            if envoy.is_ready().await {
                return envoy;
            }
        }
        panic!("Envoy did not start");
    }

    /// Waits until it asks Keyward; false if it has ended: another process may have taken its port.
    async fn is_ready(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < Duration::from_mins(1) {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if self.get("/api/build", None).await.is_some_and(|(status, _)| status == 401) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("Envoy is not ready");
    }

    async fn get(&self, path: &str, secret: Option<&str>) -> Option<(u16, String)> {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.get(format!("http://{}{path}", self.address));
        if let Some(secret) = secret {
            request = request.bearer_auth(secret);
        }
        let response = request.send().await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_gets_its_answers_from_an_agent_over_a_unix_socket() {
    let mut server = Setup::new().ready("all").env("KEYWARD_ATTACH_LEASE", "1s").start();
    let config = server.folder().join("keyward.toml").display().to_string();
    let gateway = service_key(&server, &["norrix"]).await.secret;
    let agent = AgentSetup::of(&server).credential(&gateway).arg("--config", &config).start().await;
    let envoy = Envoy::start(&agent, &gateway, api().await).await;
    let of = |scope: &str| CreateRequest {
        keyspace: "norrix".into(),
        organization: "acme".into(),
        scopes: texts(&[scope]),
        ..CreateRequest::default()
    };
    let (build, submit) = (key(&server, of("build")).await, key(&server, of("submit")).await);
    let passed = (200, "Some(\"acme\")".to_owned());
    eventually(LONG, "memory answers Envoy", async || {
        let before = agent.answered_by_memory("check").await;
        assert_eq!(envoy.get("/api/build", Some(&build.secret)).await.unwrap(), passed);
        agent.answered_by_memory("check").await > before
    })
    .await;
    assert_eq!(envoy.get("/api/build", Some(&submit.secret)).await.unwrap().0, 403);
    assert_eq!(envoy.get("/api/build", Some("nrx_forged")).await.unwrap().0, 401);
    grpc::revoke(&mut server.client().await, &build.id).await;
    let (status, body) = envoy.get("/api/build", Some(&build.secret)).await.unwrap();
    assert!(status == 401 && body.contains("\"revoked\""), "{status} {body}");
    server.signal("KILL");
    server.wait();
    eventually(LONG, "Envoy refuses", async || {
        envoy.get("/api/build", Some(&submit.secret)).await.is_some_and(|(status, _)| status == 503)
    })
    .await;
}
