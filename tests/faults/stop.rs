//! A stop is bounded, whatever clients do and whatever the database does, and at every moment of the start.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use keyward::proto::{CreateRequest, RevokeRequest, VerifyStreamRequest};
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};

use crate::{
    ProxiedDatabase,
    postgres::fresh_database,
    receiver::{Receiver, Reply},
    start::limited_role,
    support::{
        Server, Setup,
        grpc::{Refusal, create, made},
        reply::{until, within},
        server::{ROOT, with},
    },
};

/// How long a stop may take. Debug builds on a busy machine are given a second more.
const BOUND: Duration = Duration::from_secs(6);

/// Asks a server to end; how long that took.
async fn stop(mut server: Server) -> Duration {
    let start = Instant::now();
    let ended = tokio::task::spawn_blocking(move || (server.stop(), server)).await.unwrap();
    assert_eq!(ended.0, Some(0), "{}", ended.1.log());
    start.elapsed()
}

/// Connections that never end by themselves, on both ports.
fn stubborn_clients(server: &Server) -> Vec<TcpStream> {
    let body = format!(
        "POST /api/v1/keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ROOT}\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{{"
    );
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // Requests whose responses are not read.
    let unread = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2_000);
    let mut open = Vec::new();
    for (address, bytes) in [
        (&server.http, body.as_bytes()),
        (&server.http, b"GET /hea"),
        (&server.http, b""),
        (&server.http, preface),
        (&server.http, &unread),
        (&server.grpc, preface),
        (&server.grpc, b""),
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let _ = stream.write_all(bytes);
        open.push(stream);
    }
    open
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_bounded_whatever_clients_receivers_and_the_database_do() {
    let hanging = Receiver::start(|_, _| Reply::Hang).await;
    within(BOUND, "a stop", async || {
        let database = ProxiedDatabase::new().await;
        let config = "[webhooks]\nallow_http = true\nallow_cidrs = [\"127.0.0.0/8\"]\ntimeout = \"30s\"\n";
        let server = Setup::new().config(config).delivering().database(&database.url).start();
        let before = hanging.requests().len();
        server.create(json!({"name": "n", "webhook": hanging.url("/")})).await;
        hanging.wait_for(before + 1).await;
        let (sender, receiver) = tokio::sync::mpsc::channel::<VerifyStreamRequest>(1);
        let stream = with(ROOT, tokio_stream::wrappers::ReceiverStream::new(receiver));
        let answers = server.client().await.verify_stream(stream).await.unwrap();
        let clients = stubborn_clients(&server);
        database.proxy.silence(true);
        // Calls that wait for the database.
        let mut creator = server.client().await;
        let waiting = tokio::spawn(async move { creator.create(with(ROOT, CreateRequest::default())).await.is_ok() });
        let took = stop(server).await;
        drop((sender, answers, clients));
        let _ = waiting.await;
        took
    })
    .await;
}

/// A Revoke that waits for a replica that is cut off answers that it is pending.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_that_waits_at_the_stop_is_pending() {
    let database = ProxiedDatabase::new().await;
    let url = database.direct.clone();
    let server = Setup::new().database(&url).env("KEYWARD_REPLICA_LEASE", "30s").start();
    let cut_off = Setup::new().database(&database.url).env("KEYWARD_REPLICA_LEASE", "30s").start();
    let key = made(create(&mut server.client().await, ROOT, CreateRequest::default()).await);
    database.proxy.silence(true);
    let mut client = server.client().await;
    let revoking = tokio::spawn(async move {
        client.revoke(with(ROOT, RevokeRequest { id: key.id, reason: String::new() })).await.unwrap_err()
    });
    let mut rows = PgConnection::connect(&url).await.unwrap();
    until("it is committed", async || {
        let row = rows.fetch_one("SELECT count(*) FROM keyward_keys WHERE revoked_at IS NOT NULL").await.unwrap();
        (row.get::<i64, _>(0) == 1).then_some(())
    })
    .await;
    stop(server).await;
    assert_eq!(Refusal::of(&revoking.await.unwrap()).reason, "REVOCATION_PENDING");
    drop(cut_off);
}

/// Whoever kills a process that takes too long to stop must not make the next Revoke wait for its lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_leaves_long_before_its_last_call_ends() {
    let url = fresh_database().await;
    let server = Setup::new().config("[server]\ndrain_timeout = \"5m\"\n").database(&url).start();
    let clients = stubborn_clients(&server);
    let mut rows = PgConnection::connect(&url).await.unwrap();
    let mut replicas = async || rows.fetch_one("SELECT count(*) FROM keyward_replicas").await.unwrap().get::<i64, _>(0);
    assert_eq!(replicas().await, 1);
    server.signal("TERM");
    until("the replica has left", async || (replicas().await == 0).then_some(())).await;
    // Its clients are still there, and so is the process.
    assert!(std::path::Path::new(&format!("/proc/{}", server.pid())).exists());
    assert!(!server.log().contains("stopped"), "{}", server.log());
    drop(clients);
}

/// A start that has not printed its addresses.
struct Starting {
    child: Child,
    http: String,
    _folder: tempfile::TempDir,
}

impl Drop for Starting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Starting {
    fn new(database: &str, command: &str) -> Self {
        // A port that was free a moment ago.
        let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let folder = tempfile::tempdir().unwrap();
        let setup = Setup::new().database(database).env("KEYWARD_HTTP_ADDR", &http);
        let mut command = setup.command(folder.path(), &[command]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, http, _folder: folder }
    }

    /// What `/readyz` says, once it says this.
    async fn says(&self, what: &str) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        until(what, async || {
            let answer = client.get(format!("http://{}/readyz", self.http)).send().await.ok()?;
            (answer.status() == 503 && answer.text().await.ok()?.contains(what)).then_some(())
        })
        .await;
    }

    /// Sends SIGTERM; how long the end took, standard output and the log.
    async fn stop(mut self) -> (Duration, String, String) {
        let start = Instant::now();
        let pid = self.child.id().to_string();
        assert!(std::process::Command::new("kill").arg(pid).status().unwrap().success());
        let ended = until("it has ended", async || self.child.try_wait().unwrap()).await;
        let took = start.elapsed();
        let (mut output, mut log) = (String::new(), String::new());
        self.child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert_eq!(ended.code(), Some(0), "{log}");
        (took, output, log)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_its_database_says_why_and_can_be_stopped() {
    for (silent, why) in [(false, "The database cannot be reached"), (true, "The database does not answer in time")] {
        let database = ProxiedDatabase::new().await;
        if silent {
            database.proxy.silence(true);
        } else {
            database.proxy.down(true);
        }
        let starting = Starting::new(&database.url, "serve");
        starting.says(why).await;
        let (took, output, log) = starting.stop().await;
        assert!(took < BOUND, "{took:?}");
        assert!(output.is_empty() && log.contains("database unavailable, retrying"), "{output} {log}");
    }
}

/// A session that makes migrations wait.
async fn blocker(url: &str) -> PgConnection {
    let mut conn = PgConnection::connect(url).await.unwrap();
    conn.execute("SET application_name = 'somebody else'; BEGIN; CREATE TABLE keyward_migrations (x int)")
        .await
        .unwrap();
    conn
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_migrations_wait_says_for_whom_and_can_be_stopped() {
    let url = fresh_database().await;
    let _blocker = blocker(&url).await;
    let starting = Starting::new(&url, "serve");
    starting.says("Migrations wait for another session of the database").await;
    let (took, output, log) = starting.stop().await;
    assert!(took < BOUND, "{took:?}");
    assert!(output.is_empty() && log.contains("(somebody else)"), "{output} {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_that_wait_say_for_whom_and_go_on() {
    let url = fresh_database().await;
    let mut blocker = blocker(&url).await;
    let mut migrating = Starting::new(&url, "migrate");
    let mut stderr = migrating.child.stderr.take().unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let (mut log, mut bytes) = (String::new(), [0; 1_024]);
        while !log.contains("(somebody else)") {
            let read = stderr.read(&mut bytes).unwrap();
            assert!(read > 0, "{log}");
            log.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    });
    tokio::time::timeout(Duration::from_secs(30), reading).await.unwrap().unwrap();
    blocker.execute("ROLLBACK").await.unwrap();
    let ended = until("it has ended", async || migrating.child.try_wait().unwrap()).await;
    assert_eq!(ended.code(), Some(0));
}

/// A role that may have two connections has none left for calls, so that it never gets ready.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_to_be_ready_can_be_stopped() {
    within(Duration::from_secs(3), "a stop", async || {
        let starting = Starting::new(&limited_role(2).await, "serve");
        starting.says("The database allows no more sessions").await;
        let (took, _, log) = starting.stop().await;
        assert!(log.contains("stopped") || log.contains("stopping"), "{log}");
        took
    })
    .await;
}
