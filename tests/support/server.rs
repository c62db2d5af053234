//! A real `keyward serve` on ports chosen by the system, and its clients.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::reply::{from_now, short_lives};
use keyward::proto::key_service_client::KeyServiceClient;
use serde_json::Value;
use sqlx::{ConnectOptions as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tonic::{Request, metadata::MetadataValue, transport::Channel};

/// The root credential of every test server.
pub const ROOT: &str = "root-credential-of-the-tests-0123456789";

/// How to start a server.
pub struct Setup {
    config: Option<String>,
    environment: Vec<(String, String)>,
    database: Option<String>,
    folder: Option<PathBuf>,
    root: bool,
}

impl Setup {
    /// Embedded SQLite in a folder of its own, no config file, [`ROOT`] as root credential.
    pub fn new() -> Self {
        Self { config: None, environment: Vec::new(), database: None, folder: None, root: true }
    }

    /// A config file with this text.
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// One of the ready configs: `norrix`, `noro`, `nora` or `all`.
    pub fn ready(self, name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path).unwrap();
        self.config(&text)
    }

    /// Adds to the config text.
    pub fn and(mut self, text: &str) -> Self {
        let config = self.config.get_or_insert_default();
        config.push('\n');
        config.push_str(text);
        self
    }

    /// An environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another database than a new SQLite file.
    pub fn database(mut self, url: &str) -> Self {
        self.database = Some(url.to_owned());
        self
    }

    /// A folder that another server has used: its database, too.
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// No root credential in the environment, so that the first start makes a root key.
    pub fn without_root(mut self) -> Self {
        self.root = false;
        self
    }

    /// Delivers to webhooks. Other servers of tests do not, since their webhooks are at addresses of strangers.
    pub fn delivering(self) -> Self {
        self.env("KEYWARD_WEBHOOKS_DELIVER", "true")
    }

    /// The command, not started yet.
    pub fn command(&self, folder: &Path, arguments: &[&str]) -> Command {
        // Another build: figures of a release build, say (`KEYWARD_TEST_PROGRAM=target/release/keyward tests/run …`).
        let program = std::env::var("KEYWARD_TEST_PROGRAM");
        let mut command = Command::new(program.as_deref().unwrap_or(env!("CARGO_BIN_EXE_keyward")));
        command.args(arguments).current_dir(folder).env_clear();
        if let Ok(path) = std::env::var("PATH") {
            command.env("PATH", path);
        }
        command.env("KEYWARD_GRPC_ADDR", "127.0.0.1:0").env("KEYWARD_HTTP_ADDR", "127.0.0.1:0");
        command.env("KEYWARD_WEBHOOKS_DELIVER", "false");
        if self.root {
            command.env("KEYWARD_ROOT_KEY", ROOT);
        }
        if let Some(text) = &self.config {
            let file = folder.join("keyward.toml");
            std::fs::write(&file, text).unwrap();
            command.env("KEYWARD_CONFIG", file);
        }
        if let Some(url) = &self.database {
            command.env("DATABASE_URL", url);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the server and waits until it is ready.
    pub fn start(self) -> Server {
        self.try_start().unwrap_or_else(|log| panic!("the server did not start:\n{log}"))
    }

    /// Starts the server; its log if it ended instead of getting ready.
    pub fn try_start(self) -> Result<Server, String> {
        let own = tempfile::tempdir().unwrap();
        let folder = self.folder.clone().unwrap_or_else(|| own.path().to_owned());
        let mut command = self.command(&folder, &["serve"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = collect(child.stderr.take().unwrap());
        let output = collect(child.stdout.take().unwrap());
        let start = Instant::now();
        loop {
            let lines = output.lock().unwrap().clone();
            let address = |name: &str| {
                let prefix = format!("{name} listening on ");
                lines.lines().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
            };
            // The last lines to paste come after the addresses.
            if let (Some(grpc), Some(http), true) = (address("grpc"), address("http"), lines.contains("grpcurl")) {
                let metrics = address("metrics");
                return Ok(Server { child, folder, _own: own, grpc, http, metrics, log, output });
            }
            let ended = child.try_wait().unwrap();
            if ended.is_some() || start.elapsed() > Duration::from_mins(1) {
                let _ = child.kill();
                let _ = child.wait();
                std::thread::sleep(Duration::from_millis(50));
                return Err(log.lock().unwrap().clone());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn collect(stream: impl std::io::Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let collected = Arc::clone(&text);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            collected.lock().unwrap().push_str(&line);
            line.clear();
        }
        let _ = reader.read_to_string(&mut line);
    });
    text
}

/// A running server; it is killed when this is dropped.
pub struct Server {
    child: Child,
    folder: PathBuf,
    _own: tempfile::TempDir,
    /// Where gRPC listens.
    pub grpc: String,
    /// Where REST listens.
    pub http: String,
    /// Where the probes listen, if apart.
    pub metrics: Option<String>,
    log: Arc<Mutex<String>>,
    output: Arc<Mutex<String>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Everything on standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until standard error has this text: a line may arrive here later than the response that it is about.
    pub async fn logged(&self, text: &str) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            if self.log().contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("\"{text}\" is not in the log:\n{}", self.log());
    }

    /// Everything on standard output so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Where the server runs: `keyward.db` is here.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A connection of its own to the server's SQLite file.
    pub async fn sqlite(&self) -> SqliteConnection {
        let file = self.folder().join("keyward.db");
        let options = SqliteConnectOptions::new().filename(file).busy_timeout(Duration::from_secs(30));
        options.connect().await.unwrap()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by number.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Asks the server to end and waits for it; its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.wait()
    }

    /// Waits for the server to end; its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// A channel to the gRPC port.
    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap()
    }

    /// A gRPC client.
    pub async fn client(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel().await)
    }

    /// A request to the REST port, to be finished with `.send()`.
    pub fn rest(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}{path}", self.http);
        reqwest::Client::builder().no_proxy().build().unwrap().request(method.parse().unwrap(), url)
    }

    /// Calls REST with a bearer credential and a JSON body (null: none); status and JSON.
    pub async fn call(&self, method: &str, path: &str, bearer: Option<&str>, body: Value) -> (u16, Value) {
        let mut request = self.rest(method, path);
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap())
    }

    /// Creates a key that expires soon, by `POST` to `path` with a body to which `expiresAt` is added. A busy machine may
    /// deliver the request after that time; it is then refused, and repeated with more time.
    pub async fn create_expiring(&self, path: &str, bearer: Option<&str>, body: Value) -> Value {
        for life in short_lives() {
            let mut body = body.clone();
            body["expiresAt"] = from_now(life).into();
            let (status, answer) = self.call("POST", path, bearer, body).await;
            if status != 400 {
                assert_eq!(status, 201, "{answer}");
                return answer;
            }
        }
        panic!("no request arrived before the expiry that it asked for")
    }

    /// Creates a key by `POST /api/api-keys` as the operator; the answer.
    pub async fn create(&self, body: Value) -> Value {
        let (status, answer) = self.call("POST", "/api/api-keys", Some(ROOT), body).await;
        assert_eq!(status, 201, "{answer}");
        answer
    }
}

/// A gRPC request with a bearer credential.
pub fn with<T>(credential: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<_> = format!("Bearer {credential}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}
