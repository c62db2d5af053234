//! The log: what repeats is summed up, and whoever does not read it holds nothing up.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStderr, Command, Stdio},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use keyward::proto::{Code, ListRequest, VerifyRequest, key_service_client::KeyServiceClient};
use serde_json::json;
use tonic::transport::Channel;

use crate::support::{
    Setup, reply,
    reply::until,
    server::{ROOT, with},
};

/// A server whose standard error is a pipe that nobody reads.
struct Unread {
    child: Child,
    stderr: Option<ChildStderr>,
    grpc: String,
    http: String,
    _folder: tempfile::TempDir,
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Unread {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Setup::new().env("KEYWARD_LOG", "debug").command(folder.path(), &["serve"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut address = |name: &str| {
            let prefix = format!("{name} listening on ");
            lines.find_map(|line| line.strip_prefix(&prefix).map(str::to_owned)).unwrap()
        };
        let (grpc, http) = (address("grpc"), address("http"));
        Self { child, stderr, grpc, http, _folder: folder }
    }

    async fn client(&self) -> KeyServiceClient<Channel> {
        let channel = Channel::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap();
        KeyServiceClient::new(channel)
    }

    async fn metric(&self, name: &str) -> f64 {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let text = reply(client.get(format!("http://{}/metrics", self.http))).await.text;
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap()
    }
}

/// Makes calls, each of which writes several lines.
async fn calls(client: &KeyServiceClient<Channel>, count: usize) {
    let call = |_| {
        let mut client = client.clone();
        async move { client.list(with(ROOT, ListRequest::default())).await.unwrap() }
    };
    stream::iter(0..count).map(call).buffer_unordered(32).for_each(async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standard_error_that_nobody_reads_delays_no_call() {
    let mut server = Unread::start();
    let mut client = server.client().await;
    // A pipe holds 64 KiB, and the queue before it 1 MiB.
    let start = Instant::now();
    while server.metric("keyward_log_lines_dropped_total").await < 1.0 {
        calls(&client, 500).await;
        assert!(start.elapsed() < Duration::from_mins(2));
    }
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for _ in 0..1_000 {
        let refused = http.get(format!("http://{}/api/api-keys", server.http)).send().await.unwrap();
        assert_eq!(refused.status(), 401);
    }
    let request = VerifyRequest { secret: "nonsense".into(), ..VerifyRequest::default() };
    let verdict = client.verify(with(ROOT, request)).await.unwrap().into_inner();
    assert_eq!(verdict.code(), Code::Malformed);
    // Once somebody reads, a line says what is missing.
    let stderr = server.stderr.take().unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(stderr).lines().map(Result::unwrap);
        lines.find(|line| line.contains("log lines dropped"))
    });
    let line = tokio::time::timeout(Duration::from_secs(30), reading).await.unwrap().unwrap().unwrap();
    assert!(line.contains("WARN") && line.contains("count="), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standard_error_that_nobody_reads_delays_no_stop() {
    let mut server = Unread::start();
    calls(&server.client().await, 500).await;
    let start = Instant::now();
    assert!(Command::new("kill").arg(server.child.id().to_string()).status().unwrap().success());
    let ended = until("the process has ended", async || server.child.try_wait().unwrap()).await;
    assert_eq!(ended.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    // The pipe was full, so the end of the log is missing: it is never part of a line that is cut.
    let mut log = String::new();
    server.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.len() > 40_000 && !log.contains("stopped"), "{}", log.len());
}

#[tokio::test]
async fn refusals_that_repeat_are_summed_up() {
    let mut server = Setup::new().start();
    server.create(json!({"name": "n"})).await;
    for _ in 0..200 {
        reply(server.rest("GET", "/api/api-keys")).await.refused(401, "missing_credential");
    }
    for _ in 0..20 {
        reply(server.rest("GET", "/api/api-keys").bearer_auth(ROOT)).await.good(200);
    }
    assert_eq!(server.stop(), Some(0));
    server.logged("stopped").await;
    server.logged("more lines like this one").await;
    let log = server.log();
    let of = |outcome: &str| log.lines().filter(|line| line.contains(outcome)).collect::<Vec<_>>();
    let refused = of("MISSING_CREDENTIAL");
    assert!(refused.len() < 20, "{log}");
    let count = |line: &&str| line.split("count=").nth(1)?.split(' ').next()?.parse::<usize>().ok();
    let summed_up: usize = refused.iter().filter_map(count).sum();
    let single = refused.iter().filter(|line| !line.contains("more lines like this one")).count();
    assert_eq!(summed_up + single, 200, "{log}");
    assert!(refused.iter().all(|line| line.contains("127.0.0.1")), "{log}");
    // Each call that succeeds keeps its line.
    assert_eq!(of("outcome=\"OK\"").len(), 21, "{log}");
}
