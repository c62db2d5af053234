//! The services of `docs/services.md`, in Python and Node (`tests/run` installs what they need), at a replica and at an
//! agent.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use keyward::proto::CreateRequest;

use crate::{
    BUILDS, key,
    process::AgentSetup,
    service_key,
    support::{
        Setup,
        grpc::{self, own_limit, texts},
    },
};

/// A running service; it is killed when this is dropped.
struct Service {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug, Clone, Copy)]
enum Language {
    Python,
    Node,
}

impl Language {
    const ALL: [Self; 2] = [Self::Python, Self::Node];

    fn source(self) -> &'static str {
        match self {
            Self::Python => "docs/examples/python/service.py",
            Self::Node => "docs/examples/node/service.mjs",
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn installed() -> PathBuf {
    std::env::var("KEYWARD_TEST_SERVICES").expect("KEYWARD_TEST_SERVICES: tests/run sets it").into()
}

impl Service {
    /// Starts the very file of the document.
    fn start(language: Language, target: &str, credential: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (installed, source) = (installed(), root().join(language.source()));
        let mut command = match language {
            Language::Python => {
                let python = installed.join("bin/python");
                let mut protoc = Command::new(&python);
                protoc.args(["-m", "grpc_tools.protoc", "-I"]).arg(root().join("proto"));
                for kind in ["--python_out", "--grpc_python_out"] {
                    protoc.arg(format!("{kind}={}", folder.path().display()));
                }
                assert!(protoc.arg("keyward/v1/keys.proto").status().unwrap().success());
                let script = folder.path().join("service.py");
                std::fs::copy(source, &script).unwrap();
                let mut command = Command::new(python);
                command.arg(script);
                command
            }
            Language::Node => {
                std::os::unix::fs::symlink(installed.join("node_modules"), folder.path().join("node_modules")).unwrap();
                let script = folder.path().join("service.mjs");
                std::fs::copy(source, &script).unwrap();
                let mut command = Command::new("node");
                command.arg("--preserve-symlinks-main").arg(script);
                command
            }
        };
        command.env("KEYWARD_TARGET", target).env("KEYWARD_API_KEY", credential).env("PORT", "0");
        command.env("KEYWARD_PROTO", root().join("proto")).env("no_grpc_proxy", "*").env("no_proxy", "*");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().expect("the service listens").unwrap();
        let address = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
        // Nobody may leave the pipe full.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, _folder: folder }
    }

    /// The status and the text of a request with a key.
    async fn get(&self, secret: Option<&str>) -> (u16, String) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.get(format!("http://{}/", self.address));
        if let Some(secret) = secret {
            request = request.bearer_auth(secret);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_in_python_and_node_check_keys_at_a_replica_and_at_an_agent() {
    let mut server = Setup::new().config(BUILDS).start();
    let agent = AgentSetup::of(&server).start().await;
    let own = service_key(&server, &["builds"]).await.secret;
    let of = |scope: &str| CreateRequest {
        keyspace: "builds".into(),
        organization: "acme".into(),
        scopes: texts(&[scope]),
        ..CreateRequest::default()
    };
    let (good, other) = (key(&server, of("build")).await, key(&server, of("admin")).await);
    let socket = format!("unix:{}", agent.socket.display());
    let mut services = Vec::new();
    for language in Language::ALL {
        for target in [&server.grpc, &socket, &agent.loopback] {
            let service = Service::start(language, target, &own);
            let case = format!("{language:?} at {target}");
            let limited = key(&server, CreateRequest { rate_limit: Some(own_limit(1, 3_600)), ..of("build") }).await;
            let revoked = key(&server, of("build")).await;
            for _ in 0..20 {
                assert_eq!(service.get(Some(&good.secret)).await, (200, "hello acme".to_owned()), "{case}");
                assert_eq!(service.get(Some(&revoked.secret)).await.0, 200, "{case}");
            }
            grpc::revoke(&mut server.client().await, &revoked.id).await;
            for (secret, status, text) in [
                (None, 401, "No authentication provided"),
                (Some("bld_forged"), 401, "Invalid or expired API key"),
                (Some(&*revoked.secret), 401, "Invalid or expired API key"),
                (Some(&*other.secret), 403, "API key does not have 'build' scope"),
                (Some(&*limited.secret), 200, "hello acme"),
                (Some(&*limited.secret), 429, "Rate limit exceeded"),
            ] {
                assert_eq!(service.get(secret).await, (status, text.to_owned()), "{case}");
            }
            services.push((case, service));
        }
    }
    assert!(agent.answered_by_memory("verify").await > 0);
    // Without a replica nothing is let through, once the lease is over.
    server.signal("KILL");
    server.wait();
    for (case, service) in services {
        grpc::eventually(crate::LONG, &case, async || service.get(Some(&good.secret)).await.0 == 503).await;
    }
}

#[test]
fn the_document_has_the_code_that_the_tests_run() {
    let document = std::fs::read_to_string(root().join("docs/services.md")).unwrap();
    for language in Language::ALL {
        let source = std::fs::read_to_string(root().join(language.source())).unwrap();
        assert!(document.contains(&source), "docs/services.md has {} as it is", language.source());
    }
}

#[test]
fn the_document_lists_every_setting_of_the_agent() {
    let document = std::fs::read_to_string(root().join("docs/agent.md")).unwrap();
    for setting in keyward::agent::settings::SETTINGS {
        let flag = setting.flag.map(|flag| format!("`{flag}` ")).unwrap_or_default();
        let row = format!("| {flag}| `{}` | {} |", setting.variable, setting.default);
        assert!(document.contains(&row), "docs/agent.md has the row {row}");
    }
}
