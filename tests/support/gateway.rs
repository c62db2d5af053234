//! Real gateways, each with the file that users copy: only addresses, the keyspace and the header of the credential
//! are replaced.

#![allow(dead_code, reason = "each test target uses a part of this")]

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub use keyward::domain::route::GatewayKind as Kind;

use crate::raw;

/// Whom a gateway asks, for whose keys, and what is behind it.
pub struct Behind<'a> {
    /// Where Keyward, or an agent, answers forward auth.
    pub http: &'a str,
    /// Where it answers Envoy: an address, or `unix:/path`.
    pub grpc: &'a str,
    /// The gateway's own credential.
    pub credential: &'a str,
    /// A keyspace, or a keyspace and an environment.
    pub product: &'a str,
    /// The upstream's port.
    pub upstream: u16,
}

/// A running gateway; it is stopped when this is dropped.
pub struct Gateway {
    child: Child,
    folder: tempfile::TempDir,
    pub kind: Kind,
    pub address: String,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program of a gateway.
fn program(name: &str) -> PathBuf {
    let folder = std::env::var("KEYWARD_TEST_GATEWAYS").expect("KEYWARD_TEST_GATEWAYS: tests/run sets it");
    Path::new(&folder).join("bin").join(name)
}

/// A program of a Debian package. Some are in a folder that is not in a user's PATH.
fn debian(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let mut command = Command::new(name);
    command.env("PATH", path);
    command
}

/// A file under `config/gateways/` with replacements, each of which must apply.
fn config(name: &str, replacements: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/gateways").join(name);
    let mut text = std::fs::read_to_string(path).unwrap();
    for (from, to) in replacements {
        assert!(text.contains(from), "{name} has {from:?}");
        text = text.replace(from, to);
    }
    text
}

/// A port that is free now. Gateways cannot choose one themselves and say which.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Gateway {
    /// Starts one, and waits until it asks Keyward.
    pub async fn launch(kind: Kind, behind: &Behind<'_>) -> Self {
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let port = free_port();
            let mut command = command(kind, folder.path(), behind, port);
            let log = std::fs::File::create(folder.path().join("log")).unwrap();
            command.stdout(Stdio::null()).stderr(log).stdin(Stdio::null());
            let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
            let mut gateway = Self { child, folder, kind, address: format!("127.0.0.1:{port}") };
            if gateway.is_ready().await {
                return gateway;
            }
            eprintln!("{kind:?} on {port}:\n{}", gateway.log());
        }
        panic!("{kind:?} did not start");
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Waits until it asks Keyward; false if it has ended: another process may have taken its port.
    async fn is_ready(&mut self) -> bool {
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let url = format!("http://{}/api/build", self.address);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            // While it starts it may accept a connection and end it without a response.
            if client.get(&url).send().await.is_ok_and(|response| response.status() == 401) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?} is not ready:\n{}", self.kind, self.log());
    }

    /// Sends a request on a connection of its own.
    pub async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> raw::Response {
        raw::send(&self.address, method, target, headers).await
    }
}

#[expect(clippy::too_many_lines, reason = "one arm for each gateway")]
fn command(kind: Kind, folder: &Path, behind: &Behind<'_>, port: u16) -> Command {
    let &Behind { http, grpc, credential, product, upstream } = behind;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let api = format!("127.0.0.1:{upstream}");
    // What holds the credential of this product's keys.
    let header = if product.starts_with("nora/") { "X-API-Key" } else { "Authorization" };
    match kind {
        Kind::Envoy => {
            let (keyspace, environment) = product.split_once('/').unwrap_or((product, ""));
            let mut extensions = format!("keyspace: {keyspace}");
            if !environment.is_empty() {
                let _ = write!(extensions, "\n                              environment: {environment}");
            }
            let (cluster, address) = if let Some(path) = grpc.strip_prefix("unix:") {
                // A socket has no name to be resolved.
                ("STATIC", format!("pipe: {{ path: {path} }}"))
            } else {
                let port = grpc.rsplit_once(':').unwrap().1;
                ("STRICT_DNS", format!("socket_address: {{ address: 127.0.0.1, port_value: {port} }}"))
            };
            let text = config(
                "envoy.yaml",
                &[
                    ("address: 0.0.0.0, port_value: 8000", &format!("address: 127.0.0.1, port_value: {port}")),
                    ("port_value: 3000", &format!("port_value: {upstream}")),
                    ("socket_address: { address: 127.0.0.1, port_value: 50051 }", &address),
                    (
                        "    - name: keyward\n      connect_timeout: 1s\n      type: STRICT_DNS",
                        &format!("    - name: keyward\n      connect_timeout: 1s\n      type: {cluster}"),
                    ),
                    ("keyspace: norrix", &extensions),
                ],
            );
            let mut command = Command::new(program("envoy-binary"));
            command.arg("-c").arg(write("envoy.yaml", &text));
            command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]);
            command.env("KEYWARD_GATEWAY_KEY", credential);
            command
        }
        Kind::Nginx => {
            let credential = format!("proxy_set_header X-Keyward-Gateway {credential};\n");
            let credential = write("credential.conf", &credential);
            let mut http_block = "http {\n    access_log off;\n".to_owned();
            for name in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
                let _ = writeln!(http_block, "    {name}_temp_path {}/{name};", folder.display());
            }
            let text = config(
                "nginx.conf",
                &[
                    ("http {\n", &http_block),
                    ("listen 8000;", &format!("listen 127.0.0.1:{port};")),
                    ("server 127.0.0.1:8080;", &format!("server {http};")),
                    ("server 127.0.0.1:3000;", &format!("server {api};")),
                    ("/forward-auth/nginx/norrix;", &format!("/forward-auth/nginx/{product};")),
                    (
                        "/etc/nginx/keyward_credential.conf;\n            p",
                        &format!("{};\n            p", credential.display()),
                    ),
                    ("proxy_set_header Authorization ", &format!("proxy_set_header {header} ")),
                ],
            );
            let mut command = debian("nginx");
            command.arg("-p").arg(folder).arg("-c").arg(write("nginx.conf", &text));
            let globals = format!("daemon off; master_process off; pid {}/pid;", folder.display());
            command.args(["-e", "stderr", "-g", &globals]);
            command
        }
        Kind::Caddy => {
            let text = config(
                "Caddyfile",
                &[
                    (":8000 {", &format!("{{\n\tadmin off\n\tauto_https off\n}}\n\n:{port} {{\n\tbind 127.0.0.1")),
                    ("127.0.0.1:8080", http),
                    ("127.0.0.1:3000", &api),
                    ("rewrite /forward-auth/caddy/norrix", &format!("rewrite /forward-auth/caddy/{product}")),
                    ("request_header -Authorization", &format!("request_header -{header}")),
                ],
            );
            let mut command = Command::new(program("caddy"));
            command.args(["run", "--adapter", "caddyfile", "--config"]).arg(write("Caddyfile", &text));
            command.env("HOME", folder).env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder);
            command.env("KEYWARD_GATEWAY_KEY", credential);
            command
        }
        Kind::Traefik => {
            let routes = config(
                "traefik-routes.yaml",
                &[
                    ("127.0.0.1:8080", http),
                    ("127.0.0.1:3000", &api),
                    ("/forward-auth/traefik/norrix\n", &format!("/forward-auth/traefik/{product}\n")),
                    ("Authorization: \"\"", &format!("{header}: \"\"")),
                ],
            );
            let routes = write("traefik-routes.yaml", &routes);
            let text = config(
                "traefik.yaml",
                &[
                    ("\":8000\"", &format!("\"127.0.0.1:{port}\"")),
                    ("filename: traefik-routes.yaml", &format!("filename: {}", routes.display())),
                ],
            );
            let mut command = Command::new(program("traefik"));
            command.arg(format!("--configFile={}", write("traefik.yaml", &text).display()));
            command.env("KEYWARD_GATEWAY_KEY", credential);
            command
        }
        Kind::Haproxy => {
            let script = write("haproxy.lua", &config("haproxy.lua", &[]));
            let text = config(
                "haproxy.cfg",
                &[
                    ("127.0.0.1:8080", http),
                    ("/forward-auth/haproxy/norrix\n", &format!("/forward-auth/haproxy/{product}\n")),
                    ("/etc/haproxy/haproxy.lua", script.to_str().unwrap()),
                    ("bind :8000", &format!("bind 127.0.0.1:{port}")),
                    ("127.0.0.1:3000", &api),
                    ("del-header Authorization", &format!("del-header {header}")),
                ],
            );
            let mut command = debian("haproxy");
            command.arg("-db").arg("-f").arg(write("haproxy.cfg", &text));
            command.env("KEYWARD_GATEWAY_KEY", credential);
            command
        }
    }
}
