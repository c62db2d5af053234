//! A real Redis on a port chosen by the system.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::tls::Identity;

/// A running server; it is killed when this is dropped.
pub struct RedisServer {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
}

impl RedisServer {
    /// Starts an empty server.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same with a password, and under TLS.
    pub fn secured(identity: &Identity, password: &str) -> Self {
        let (cert, key) = (identity.cert.display().to_string(), identity.key.display().to_string());
        let tls = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-auth-clients", "no"];
        Self::with(&[&tls[..], &["--tls-ca-cert-file", &cert, "--requirepass", password]].concat())
    }

    fn with(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        // Somebody else may take a free port before the server does.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let folder = tempfile::tempdir().unwrap();
            let child = spawn(port, &folder, &arguments);
            let mut server = Self { child, port, folder, arguments: arguments.clone() };
            if server.answers() {
                return server;
            }
        }
        panic!("redis-server did not start; run the tests by tests/run, which installs it");
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection of the test's own.
    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    /// Kills it.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, empty, on the same port.
    pub fn restart(&mut self) {
        self.stop();
        self.child = spawn(self.port, &self.folder, &self.arguments);
        assert!(self.answers());
    }

    /// Sends a signal by name.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    fn answers(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            if !matches!(self.child.try_wait(), Ok(None)) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

fn spawn(port: u16, folder: &tempfile::TempDir, arguments: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    let plain = if arguments.is_empty() { "--port" } else { "--tls-port" };
    if !arguments.is_empty() {
        command.args(["--port", "0"]);
    }
    command.args(["--bind", "127.0.0.1", "--save", "", plain]).arg(port.to_string()).arg("--dir").arg(folder.path());
    command.args(arguments);
    let spawned = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    spawned.expect("redis-server is installed by tests/run")
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}
