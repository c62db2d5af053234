//! The database answers reads and takes no writes: a Postgres that an operator or a provider has made read-only, and a
//! SQLite whose disk is full.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use keyward::proto::Code;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    assert_public,
    postgres::fresh_database,
    support::{
        Server, Setup,
        grpc::{code, key},
        reply::until,
        server::ROOT,
    },
};

const LEASE: Duration = Duration::from_secs(3);

async fn probe(server: &Server, path: &str) -> (u16, String) {
    let (status, body) = server.call("GET", path, None, Value::Null).await;
    let message = body["message"].as_str().unwrap_or_default().to_owned();
    assert_public(&message);
    (status, message)
}

async fn health(server: &Server) -> ServingStatus {
    let mut client = HealthClient::new(server.channel().await);
    client.check(HealthCheckRequest::default()).await.unwrap().into_inner().status()
}

/// Makes the database take no writes, or take them again, and ends every session, as a provider does.
async fn read_only(url: &str, on: bool) {
    let mut conn = PgConnection::connect(url).await.unwrap();
    let name = url::Url::parse(url).unwrap().path().trim_start_matches('/').to_owned();
    conn.execute("SET default_transaction_read_only = off").await.unwrap();
    let alter = format!("ALTER DATABASE \"{name}\" SET default_transaction_read_only = {on}");
    conn.execute(AssertSqlSafe(alter)).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()";
    conn.execute(end).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_postgres_takes_writes_away_and_nothing_else() {
    let url = fresh_database().await;
    let server = Setup::new().database(&url).start();
    let strict = Setup::new().config("[server]\nready_requires_writes = true\n").database(&url).start();
    let mut client = server.client().await;
    let made = key(&mut client, "", "", &[]).await;
    assert_eq!(code(&mut client, &made.secret).await, Code::Valid);
    read_only(&url, true).await;
    let no_writes = "The database takes no writes".to_owned();
    until("the probe says what is missing", async || {
        (probe(&server, "/readyz").await == (200, no_writes.clone())).then_some(())
    })
    .await;
    until("the strict replica is not ready", async || {
        (probe(&strict, "/readyz").await == (503, no_writes.clone())).then_some(())
    })
    .await;
    // Past the end of the lease, whose renewals are writes: look-ups answer.
    let (logged, since) = (server.log().lines().count(), Instant::now());
    until("the lease is over", async || (since.elapsed() > 3 * LEASE).then_some(())).await;
    for replica in [&server, &strict] {
        assert_eq!(code(&mut replica.client().await, &made.secret).await, Code::Valid);
        assert_eq!(probe(replica, "/readyz?verify=1").await, (200, no_writes.clone()));
    }
    assert_eq!(probe(&server, "/readyz").await, (200, no_writes));
    assert_eq!((health(&server).await, health(&strict).await), (ServingStatus::Serving, ServingStatus::NotServing));
    let (status, _) = server.call("POST", "/api/api-keys", Some(ROOT), json!({"name": "n"})).await;
    assert_eq!(status, 503);
    // What repeats is summed up.
    let lines = server.log().lines().count() - logged;
    let tens = since.elapsed().as_secs() / 10 + 1;
    assert!(lines as u64 <= 40 * tens, "{lines} lines in {:?}:\n{}", since.elapsed(), server.log());
    read_only(&url, false).await;
    for replica in [&server, &strict] {
        until("it recovers", async || (probe(replica, "/readyz").await == (200, String::new())).then_some(())).await;
    }
    server.create(json!({"name": "n"})).await;
}

/// A server on a disk of its own, in a name space of its own.
struct SmallDisk {
    child: Child,
    http: String,
    disk: PathBuf,
    _folder: tempfile::TempDir,
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl SmallDisk {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Its root folder is read through `/proc`.
        let server = Setup::new().env("KEYWARD_DUMPABLE", "true").command(folder.path(), &["serve"]);
        let script = "mount -t tmpfs -o size=8m tmpfs \"$1\" && cd \"$1\" && exec \"$2\" serve";
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command.arg(folder.path()).arg(server.get_program()).env_clear();
        command.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let http = lines.find_map(|line| line.strip_prefix("http listening on ").map(str::to_owned));
        let http = http.expect("a server in a name space of its own: needs user name spaces, or root");
        // The disk as the server sees it.
        let inside = folder.path().strip_prefix("/").unwrap();
        let disk = PathBuf::from(format!("/proc/{}/root", child.id())).join(inside);
        Self { child, http, disk, _folder: folder }
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}{path}", self.http);
        let mut request = client.request(method.parse().unwrap(), url).bearer_auth(ROOT);
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Fills the disk, or empties it again.
    fn fill(&self, full: bool) {
        let file = self.disk.join("filler");
        if full {
            // As much as there is room for.
            let _ = std::fs::write(file, vec![0; 64 << 20]);
        } else {
            std::fs::remove_file(file).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_takes_writes_away_and_nothing_else() {
    let server = SmallDisk::start();
    let (status, made) = server.call("POST", "/api/api-keys", json!({"name": "n"})).await;
    assert_eq!(status, 201, "{made}");
    let full = "The disk of the database is full";
    let says = async |path: &str| {
        let (status, body) = server.call("GET", path, Value::Null).await;
        (status, body["message"].as_str().unwrap_or_default().to_owned())
    };
    server.fill(true);
    // Nobody writes: the probe finds it by itself. What the write-ahead log has room for may still be written.
    until("the probe says that the disk is full", async || {
        let name = "x".repeat(200);
        let _ = server.call("POST", "/api/api-keys", json!({"name": name})).await;
        (says("/readyz").await == (200, full.to_owned())).then_some(())
    })
    .await;
    assert_eq!(says("/readyz?verify=1").await, (200, full.to_owned()));
    let (status, verdict) = server.call("POST", "/api/v1/verify", json!({"secret": made["key"]})).await;
    assert_eq!((status, &verdict["code"]), (200, &json!("VALID")));
    server.fill(false);
    until("writes are back", async || (says("/readyz").await == (200, String::new())).then_some(())).await;
    let (status, _) = server.call("POST", "/api/api-keys", json!({"name": "n"})).await;
    assert_eq!(status, 201);
}
