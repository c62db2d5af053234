//! A real Redis on a free port.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::tls::Identity;

/// A running server. Dropping this kills it.
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

    /// Starts an empty server with a password and TLS.
    pub fn secured(identity: &Identity, password: &str) -> Self {
        let (cert, key) = (identity.cert.display().to_string(), identity.key.display().to_string());
        let tls = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-auth-clients", "no"];
        Self::with(&[&tls[..], &["--tls-ca-cert-file", &cert, "--requirepass", password]].concat())
    }

    fn with(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        // Another process may take the free port before the server binds it. Then try another port.
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

    /// The server's URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A new connection.
    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    /// Kills the server.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Restarts the server on the same port, without data.
    pub fn restart(&mut self) {
        self.stop();
        self.child = spawn(self.port, &self.folder, &self.arguments);
        assert!(self.answers());
    }

    /// Sends a signal, given by name.
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
