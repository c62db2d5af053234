//! A real `keyward agent`.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use keyward::proto::key_service_client::KeyServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    LONG, is_valid,
    support::{
        Server,
        grpc::{Client, eventually},
        server::ROOT,
    },
};

/// How to start an agent.
pub struct AgentSetup {
    upstream: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl AgentSetup {
    /// An agent of the replica at this address, with the root credential.
    pub fn at(address: &str) -> Self {
        let environment = vec![("KEYWARD_AGENT_CREDENTIAL".to_owned(), ROOT.to_owned())];
        Self { upstream: vec![format!("http://{address}")], arguments: Vec::new(), environment }
    }

    /// An agent of this replica, with the root credential.
    pub fn of(server: &Server) -> Self {
        Self::at(&server.grpc)
    }

    /// A further replica.
    pub fn and(mut self, address: &str) -> Self {
        self.upstream.push(format!("http://{address}"));
        self
    }

    /// The agent's own credential.
    pub fn credential(self, credential: &str) -> Self {
        self.env("KEYWARD_AGENT_CREDENTIAL", credential)
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn arg(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// The command, which listens on `agent.sock` in a folder and on a loopback address.
    pub fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
        command.arg("agent").current_dir(folder).env_clear();
        for url in &self.upstream {
            command.args(["--upstream", url]);
        }
        let socket = format!("unix:{}", socket(folder).display());
        command.args(["--listen", &socket, "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
        command.args(["--metrics-addr", "127.0.0.1:0"]);
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it, and waits until it serves.
    pub async fn start(self) -> Agent {
        let agent = self.launch(tempfile::tempdir().unwrap());
        agent.until_serving(true).await;
        agent
    }

    /// Starts it in a folder, and waits until it listens.
    pub fn launch(self, folder: tempfile::TempDir) -> Agent {
        let mut command = self.command(folder.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = collect_output(child.stderr.take().unwrap());
        let output = collect_output(child.stdout.take().unwrap());
        let start = Instant::now();
        loop {
            let lines: Vec<_> = output.lock().unwrap().lines().map(str::to_owned).collect();
            let address = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name).map(str::to_owned));
            if let (Some(socket), Some(loopback), Some(http), Some(metrics)) = (
                address("grpc listening on unix:"),
                address("grpc listening on 127").map(|rest| format!("127{rest}")),
                address("http listening on "),
                address("metrics listening on "),
            ) {
                return Agent { child, folder, socket: socket.into(), loopback, http, metrics, log };
            }
            let ended = child.try_wait().unwrap();
            if ended.is_some() || start.elapsed() > Duration::from_mins(1) {
                let _ = child.kill();
                let _ = child.wait();
                std::thread::sleep(Duration::from_millis(50));
                panic!("the agent did not start:\n{}", log.lock().unwrap());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The socket of an agent in a folder.
pub fn socket(folder: &Path) -> PathBuf {
    folder.join("agent.sock")
}

fn collect_output(stream: impl std::io::Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let gathered = Arc::clone(&text);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut text = gathered.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
    text
}

/// A running agent; it is killed when this is dropped.
pub struct Agent {
    child: Child,
    pub folder: tempfile::TempDir,
    pub socket: PathBuf,
    /// Its loopback address.
    pub loopback: String,
    /// Where gateways ask over HTTP.
    pub http: String,
    metrics: String,
    log: Arc<Mutex<String>>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Agent {
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// A channel to its Unix socket.
    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("unix:{}", self.socket.display())).unwrap().connect().await.unwrap()
    }

    /// A client on its Unix socket.
    pub async fn client(&self) -> Client {
        KeyServiceClient::new(self.channel().await)
    }

    /// A client on its loopback address.
    pub async fn loopback_client(&self) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.loopback)).unwrap();
        KeyServiceClient::new(endpoint.connect().await.unwrap())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(format!("-{signal}")).arg(pid).status().unwrap().success());
    }

    /// Waits for its end; its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// What the health service says.
    pub async fn is_serving(&self) -> bool {
        let mut health = HealthClient::new(self.channel().await);
        let request = HealthCheckRequest { service: "keyward.v1.KeyService".to_owned() };
        let answer = health.check(request).await;
        answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
    }

    pub async fn until_serving(&self, serving: bool) {
        eventually(LONG, "health", async || self.is_serving().await == serving).await;
    }

    /// A path of its HTTP listener: status and text.
    pub async fn probe(&self, path: &str) -> (u16, String) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client.get(format!("http://{}{path}", self.metrics)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// A sample of its metrics.
    pub async fn metric(&self, sample: &str) -> u64 {
        let (_, text) = self.probe("/metrics").await;
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{sample} in\n{text}")).parse().unwrap()
    }

    /// Answers of one call that memory has given.
    pub async fn answered_by_memory(&self, call: &str) -> u64 {
        self.metric(&format!("keyward_agent_answers_total{{call=\"{call}\",source=\"memory\"}}")).await
    }

    /// Waits until memory answers for a key to a caller.
    pub async fn warm(&self, credential: &str, secret: &str) {
        let mut client = self.client().await;
        eventually(LONG, "memory answers", async || {
            let before = self.answered_by_memory("verify").await;
            is_valid(&mut client, credential, secret).await && self.answered_by_memory("verify").await > before
        })
        .await;
    }
}
