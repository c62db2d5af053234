//! Starts: several at once, with the database unavailable, and with the master key of another installation.

use std::{
    net::TcpListener,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use keyward::proto::{Code, CreateRequest};
use sqlx::{Connection as _, Executor as _};

use crate::{
    ProxiedDatabase, assert_public,
    postgres::{fresh_database, role_of_the_service},
    support::{
        Server, Setup,
        grpc::{code, create, eventually, key, made},
        server::{ROOT, with},
    },
};

const MASTER: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const OTHER_MASTER: &str = "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=";

/// Starts servers at the same time and waits until each is ready.
async fn start_all(setups: impl IntoIterator<Item = Setup>) -> Vec<Server> {
    let starts = setups.into_iter().map(|setup| tokio::task::spawn_blocking(|| setup.start()));
    let mut servers = Vec::new();
    for start in starts.collect::<Vec<_>>() {
        servers.push(start.await.unwrap());
    }
    servers
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_together_on_an_empty_database_share_one_installation() {
    let url = fresh_database().await;
    let servers = start_all((0..4).map(|_| Setup::new().database(&url))).await;
    let mut clients = Vec::new();
    for server in &servers {
        clients.push(server.client().await);
    }
    for creator in 0..clients.len() {
        // Each replica knows the keys of every other one at once: they share one master key and one database.
        let secret = key(&mut clients[creator], "", "", &[]).await.secret;
        for client in &mut clients {
            assert_eq!(code(client, &secret).await, Code::Valid);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_replicas_that_start_together_without_a_root_credential_one_creates_a_root_key() {
    let url = fresh_database().await;
    let servers = start_all((0..4).map(|_| Setup::new().without_root().database(&url))).await;
    let outputs: String = servers.iter().map(Server::output).collect();
    let roots: Vec<&str> =
        outputs.lines().filter_map(|line| line.strip_prefix("root key, shown this once: ")).collect();
    let [root] = roots[..] else { panic!("not one root key: {outputs}") };
    for server in &servers {
        create(&mut server.client().await, root, CreateRequest::default()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_can_be_applied_by_several_processes_at_once() {
    let url = fresh_database().await;
    let folder = tempfile::tempdir().unwrap();
    let migrate = || spawn(&mut Setup::new().database(&url).command(folder.path(), &["migrate"]));
    for child in (0..4).map(|_| migrate()).collect::<Vec<_>>() {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let server = Setup::new().database(&url).start();
    key(&mut server.client().await, "", "", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_key_command_replaces_a_lost_root_key_beside_a_running_server() {
    let url = fresh_database().await;
    let server = Setup::new().without_root().database(&url).start();
    let folder = tempfile::tempdir().unwrap();
    let output = Setup::new().database(&url).command(folder.path(), &["root-key"]).output().unwrap();
    let root = String::from_utf8(output.stdout).unwrap();
    create(&mut server.client().await, root.trim(), CreateRequest::default()).await;
}

/// The owner of the tables migrates, and the service has only the rights that the operator's guide grants.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_role_may_not_create_tables_serves_a_migrated_database() {
    let url = fresh_database().await;
    let folder = tempfile::tempdir().unwrap();
    let owner = Setup::new().database(&url);
    assert!(owner.command(folder.path(), &["migrate"]).output().unwrap().status.success());
    let server = Setup::new().database(&role_of_the_service(&url).await).start();
    let made = key(&mut server.client().await, "", "", &[]).await;
    assert_eq!(code(&mut server.client().await, &made.secret).await, Code::Valid);
}

/// A role that may have `limit` connections, on a database that its owner has migrated.
pub async fn limited_role(limit: u32) -> String {
    let url = fresh_database().await;
    let folder = tempfile::tempdir().unwrap();
    let owner = Setup::new().database(&url);
    assert!(owner.command(folder.path(), &["migrate"]).output().unwrap().status.success());
    let service = role_of_the_service(&url).await;
    let role = url::Url::parse(&service).unwrap().username().to_owned();
    let mut conn = sqlx::postgres::PgConnection::connect(&url).await.unwrap();
    let limit = format!("ALTER ROLE {role} CONNECTION LIMIT {limit}");
    conn.execute(sqlx::AssertSqlSafe(limit)).await.unwrap();
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_may_not_connect_often_enough_says_so_in_its_log_and_to_its_probes() {
    let server = Setup::new().database(&limited_role(2).await).start();
    server.logged("not ready").await;
    server.logged("too many connections for role").await;
    eventually(Duration::from_secs(20), "the probe says why", async || {
        let (status, body) = server.call("GET", "/readyz", None, serde_json::Value::Null).await;
        let body = body.to_string();
        assert_public(&body);
        status == 503 && body.contains("The database allows no more sessions")
    })
    .await;
    assert!(server.log().matches("not ready").count() < 5, "{}", server.log());
}

/// The lease takes two connections, so that one is left for all calls, and none to listen.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_one_connection_for_calls_answers_all_of_them() {
    let server = Setup::new().database(&limited_role(3).await).start();
    let mut client = server.client().await;
    let made = key(&mut client, "", "", &[]).await;
    let checks = (0..50).map(|_| {
        let mut client = client.clone();
        let secret = made.secret.clone();
        async move { code(&mut client, &secret).await }
    });
    assert!(futures::future::join_all(checks).await.iter().all(|code| *code == Code::Valid));
    let reads = (0..50).map(|_| server.call("GET", "/api/api-keys", Some(ROOT), serde_json::Value::Null));
    for (status, body) in futures::future::join_all(reads).await {
        assert_eq!(status, 200, "{body}");
    }
    server.logged("the listener has no connection").await;
}

fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs a start that must end by itself.
fn failed_start(setup: &Setup) -> Output {
    let folder = tempfile::tempdir().unwrap();
    spawn(&mut setup.command(folder.path(), &["serve"])).wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_database_exits_with_the_reason_after_half_a_minute() {
    // A port that was free a moment ago, so that nothing listens on it.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://keyward:hunter2-hunter2@127.0.0.1:{port}/keyward");
    let start = Instant::now();
    let output = failed_start(&Setup::new().database(&url));
    let (took, log) = (start.elapsed(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!((25..45).contains(&took.as_secs()), "{took:?}");
    let last = log.lines().last().unwrap();
    assert!(last.starts_with("keyward: database unavailable") && last.contains("refused"), "{last}");
    assert!(!log.contains("hunter2"), "a password is in the log");
    assert!(output.stdout.is_empty(), "addresses are printed although nothing listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_completes_once_its_database_becomes_available() {
    for silent in [false, true] {
        let database = ProxiedDatabase::new().await;
        let cut_off = |database: &ProxiedDatabase, off| {
            if silent { database.proxy.silence(off) } else { database.proxy.down(off) }
        };
        cut_off(&database, true);
        let setup = Setup::new().database(&database.url);
        let starting = tokio::task::spawn_blocking(|| setup.start());
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(!starting.is_finished());
        cut_off(&database, false);
        let server = starting.await.unwrap();
        key(&mut server.client().await, "", "", &[]).await;
    }
}

/// The probes of an orchestrator must be answered during the start.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_its_database_is_alive_and_not_ready() {
    let database = ProxiedDatabase::new().await;
    database.proxy.down(true);
    // Ports that were free a moment ago: the server prints its addresses only once it is ready.
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (grpc, http) = (free(), free());
    let setup = Setup::new().database(&database.url).env("KEYWARD_GRPC_ADDR", &grpc).env("KEYWARD_HTTP_ADDR", &http);
    let starting = tokio::task::spawn_blocking(|| setup.start());
    let http_client = reqwest::Client::new();
    let get = async |path: &str| {
        let answer =
            http_client.get(format!("http://{http}{path}")).timeout(Duration::from_secs(2)).send().await.ok()?;
        let named = answer.headers().contains_key("x-request-id");
        Some((answer.status().as_u16(), named, answer.text().await.unwrap()))
    };
    eventually(Duration::from_secs(5), "the process is alive", async || get("/healthz").await.is_some()).await;
    assert_eq!(get("/healthz").await.unwrap().0, 200);
    assert!(get("/readyz").await.unwrap().2.contains("The database cannot be reached"));
    for path in ["/readyz", "/api/api-keys", "/metrics", "/no/such/path"] {
        let (status, named, body) = get(path).await.unwrap();
        assert_eq!((status, named), (503, true), "{path}");
        assert_public(&body);
        assert!(body.contains("\"code\":\"unavailable\""), "{path}: {body}");
    }
    let channel = tonic::transport::Channel::from_shared(format!("http://{grpc}")).unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let response = health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(response.status(), tonic_health::pb::health_check_response::ServingStatus::NotServing);
    let mut keys = keyward::proto::key_service_client::KeyServiceClient::new(channel);
    let refused = keys.create(with(ROOT, CreateRequest::default())).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(!starting.is_finished());
    database.proxy.down(false);
    let server = starting.await.unwrap();
    assert_eq!((&server.grpc, &server.http), (&grpc, &http));
    assert_eq!(get("/readyz").await.unwrap().0, 200);
    key(&mut server.client().await, "", "", &[]).await;
    // The client's connection reaches the service now, or the client makes a new one.
    eventually(Duration::from_secs(5), "the same client is served", async || {
        keys.create(with(ROOT, CreateRequest::default())).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_another_master_key_than_the_databases_is_refused() {
    let url = fresh_database().await;
    let with = |master: Option<&str>| {
        let setup = Setup::new().database(&url);
        master.map_or(Setup::new().database(&url), |master| setup.env("KEYWARD_MASTER_KEY", master))
    };
    let mut first = with(Some(MASTER)).start();
    let kept = made(create(&mut first.client().await, ROOT, CreateRequest::default()).await);
    assert_eq!(first.stop(), Some(0));
    for master in [None, Some(OTHER_MASTER)] {
        let output = failed_start(&with(master));
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.lines().last().unwrap().contains("KEYWARD_MASTER_KEY"), "{log}");
        assert!(!log.contains(MASTER) && !log.contains(OTHER_MASTER));
    }
    let again = with(Some(MASTER)).start();
    assert_eq!(code(&mut again.client().await, &kept.secret).await, Code::Valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_its_own_master_key_refuses_one_from_the_environment() {
    let url = fresh_database().await;
    let mut first = Setup::new().database(&url).start();
    let kept = made(create(&mut first.client().await, ROOT, CreateRequest::default()).await);
    first.stop();
    let output = failed_start(&Setup::new().database(&url).env("KEYWARD_MASTER_KEY", MASTER));
    assert_eq!(output.status.code(), Some(1));
    let again = Setup::new().database(&url).start();
    assert_eq!(code(&mut again.client().await, &kept.secret).await, Code::Valid);
}
