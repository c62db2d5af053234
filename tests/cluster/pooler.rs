//! Replicas behind PgBouncer in transaction mode: connections keep no state, there are no notifications, and replicas
//! learn of changes from the reads of their renewals only.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures::future::join_all;
use keyward::proto::{Code, CreateRequest};

use crate::{
    database::Database,
    support::{
        Server, Setup,
        grpc::{self, eventually, made},
        server::ROOT,
    },
};

/// A PgBouncer in front of a Postgres.
struct Bouncer {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// PgBouncer's executable. Debian installs it outside the usual PATH.
fn program() -> PathBuf {
    let folders = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    let found = std::env::split_paths(&folders).map(|folder| folder.join("pgbouncer")).find(|file| file.is_file());
    found.expect("pgbouncer is installed (Debian: pgbouncer)")
}

impl Bouncer {
    async fn start(database: &Database) -> Self {
        // Another process may take the port before PgBouncer binds it. Then try another port.
        for _ in 0..5 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = free.local_addr().expect("an address").port();
            drop(free);
            let folder = tempfile::tempdir().expect("a folder");
            let mut bouncer = Self { child: Self::spawn(database, &folder, port), folder, port };
            for _ in 0..100 {
                if bouncer.child.try_wait().expect("a child").is_some() {
                    break;
                }
                if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                    return bouncer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        panic!("PgBouncer does not start");
    }

    fn spawn(database: &Database, folder: &tempfile::TempDir, port: u16) -> Child {
        let (host, server_port) = (database.address().ip(), database.address().port());
        let users = folder.path().join("users.txt");
        // Fewer server connections than the replicas need, so that they share them.
        let config = format!(
            "[databases]\npostgres = host={host} port={server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
             pool_mode = transaction\ndefault_pool_size = 6\nmax_client_conn = 200\n",
            users.display()
        );
        std::fs::write(&users, "\"postgres\" \"\"\n").expect("the users are written");
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, config).expect("the config is written");
        // PgBouncer refuses to run as root. The user that it switches to must be able to read this folder.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("it can be read");
        let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
        let mut command = Command::new(program());
        if root {
            command.args(["-u", "nobody"]);
        }
        command.arg(file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
    }

    fn replica(&self, database: &Database, lease: Duration) -> Server {
        let setup = Setup::new()
            .config(&format!(
                "[database]\nurl = \"postgres://postgres@127.0.0.1:{}/postgres\"\npooler = true\nmigrate_url = \"{}\"\n",
                self.port,
                database.url()
            ))
            .env("KEYWARD_REPLICA_LEASE", &format!("{}ms", lease.as_millis()))
            .env("KEYWARD_LOG", "info,keyward::transport=warn");
        assert!(self.folder.path().is_dir());
        tokio::task::block_in_place(|| setup.start())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn behind_a_transaction_pooler_revoke_returns_within_a_lease() {
    const LEASE: Duration = Duration::from_millis(1_500);
    const TASKS: usize = 12;
    const ROUNDS: usize = 20;
    let database = tokio::task::block_in_place(|| Database::start("-c synchronous_commit=on"));
    let bouncer = Bouncer::start(&database).await;
    let servers = [bouncer.replica(&database, LEASE), bouncer.replica(&database, LEASE)];
    let clients = [servers[0].client().await, servers[1].client().await];

    let round = async |task: usize, round: usize| {
        let [mut here, mut there] = clients.clone();
        if (task + round).is_multiple_of(2) {
            std::mem::swap(&mut here, &mut there);
        }
        let key = made(grpc::create(&mut here, ROOT, CreateRequest::default()).await);
        for _ in 0..5 {
            assert_eq!(grpc::code(&mut here, &key.secret).await, Code::Valid);
            assert_eq!(grpc::code(&mut there, &key.secret).await, Code::Valid);
        }
        let start = Instant::now();
        grpc::revoke(&mut here, &key.id).await;
        let took = start.elapsed();
        for client in [&mut there, &mut here] {
            assert_eq!(grpc::code(client, &key.secret).await, Code::Revoked);
        }
        took
    };
    let tasks = (0..TASKS).map(async |task| {
        let mut times = Vec::new();
        for number in 0..ROUNDS {
            times.push(round(task, number).await);
        }
        times
    });
    let mut times: Vec<Duration> = join_all(tasks).await.into_iter().flatten().collect();
    times.sort_unstable();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{} calls; Revoke: median {median:?}, longest {longest:?}", times.len() * 14);
    assert!(longest < LEASE, "a Revoke took {longest:?}");
    for server in &servers {
        assert!(!server.log().contains("WARN"), "{}", server.log());
    }
    // Leaving works behind the pooler, too.
    let mut rows = database.connect().await;
    let [first, mut second] = servers;
    tokio::task::block_in_place(|| assert_eq!(second.stop(), Some(0)));
    eventually(Duration::from_secs(2), "its row is gone", async || {
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM keyward_replicas").fetch_one(&mut rows).await.expect("a count");
        count == 1
    })
    .await;
    drop(first);
}
