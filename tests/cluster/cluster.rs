//! Replicas, each behind its own proxy, on a Postgres that can be crashed.

use std::{
    sync::{Arc, Mutex, RwLock},
    time::{Duration, Instant},
};

use keyward::proto::{Code, VerifyRequest, key_service_client::KeyServiceClient};
use sqlx::PgConnection;
use tonic::{Status, transport::Channel};

use crate::{
    database::{Database, url},
    proxy::Proxy,
    support::{
        Server, Setup,
        grpc::{self, Client, Made},
        server::{ROOT, with},
    },
};

/// Default lease of the replicas: short, so that a test sees many renewals.
pub const LEASE: Duration = Duration::from_secs(1);

/// How to start a replica.
#[derive(Debug, Clone)]
pub struct Start {
    /// The replica's lease.
    pub lease: Duration,
    /// Fault switches, separated by commas.
    pub faults: String,
}

impl Start {
    /// With these guards disabled.
    pub fn without(faults: &str) -> Self {
        Self { faults: faults.to_owned(), ..Self::default() }
    }

    /// With another lease.
    pub fn lease(self, seconds: u64) -> Self {
        Self { lease: Duration::from_secs(seconds), ..self }
    }
}

impl Default for Start {
    fn default() -> Self {
        Self { lease: LEASE, faults: String::new() }
    }
}

/// One replica behind its proxy. Its process may be replaced by another one.
pub struct Replica {
    /// The proxy between the replica and Postgres.
    pub proxy: Proxy,
    start: Start,
    server: Mutex<Option<Server>>,
    client: RwLock<Client>,
    /// Made at its first use: most tests have no attached clients.
    attached: Mutex<Option<keyward_client::Client>>,
}

impl Replica {
    async fn new(database: &Database, start: Start) -> Self {
        let proxy = Proxy::start(database.address()).await;
        let server = serve(&proxy, &start).expect("the replica starts");
        let client = RwLock::new(client(&server));
        Self { proxy, start, server: Mutex::new(Some(server)), client, attached: Mutex::default() }
    }

    /// A client on an existing connection.
    pub fn client(&self) -> Client {
        self.client.read().unwrap().clone()
    }

    /// A client that is attached to it.
    pub fn attached(&self) -> keyward_client::Client {
        // While no process runs, there is nobody at this address either.
        let address = self.server.lock().unwrap().as_ref().map(|server| server.grpc.clone());
        let mut made = self.attached.lock().unwrap();
        match (&*made, address) {
            (Some(client), _) => client.clone(),
            (None, None) => attach_to("127.0.0.1:1"),
            (None, Some(address)) => made.insert(attach_to(&address)).clone(),
        }
    }

    /// Calls a function with the process.
    pub fn server<T>(&self, use_server: impl FnOnce(&mut Server) -> T) -> T {
        use_server(self.server.lock().unwrap().as_mut().expect("the replica runs"))
    }

    /// Sends a signal, given by name.
    pub fn signal(&self, signal: &str) {
        self.server(|server| server.signal(signal));
    }

    /// Kills the process.
    pub fn kill(&self) {
        drop(self.server.lock().unwrap().take());
    }

    /// Stops the process cleanly, and waits for its exit.
    pub fn stop(&self) {
        let mut server = self.server.lock().unwrap().take().expect("the replica runs");
        tokio::task::block_in_place(|| assert_eq!(server.stop(), Some(0), "{}", server.log()));
    }

    /// Starts a new process. The error is its log, if it did not become ready.
    pub fn revive(&self) -> Result<(), String> {
        let server = serve(&self.proxy, &self.start)?;
        *self.client.write().unwrap() = client(&server);
        *self.server.lock().unwrap() = Some(server);
        *self.attached.lock().unwrap() = None;
        Ok(())
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.server.lock().unwrap().as_ref().map(Server::log).unwrap_or_default()
    }

    /// The verdict on a secret.
    pub async fn code(&self, secret: &str) -> Result<Code, Status> {
        code(&mut self.client(), secret, Duration::from_secs(5)).await
    }

    /// Revokes a key through this replica.
    pub async fn revoke(&self, id: &str) {
        grpc::revoke(&mut self.client(), id).await;
    }

    /// Verifies repeatedly for `span`. Returns whether any answer was VALID.
    pub async fn answers_valid_within(&self, span: Duration, secret: &str) -> bool {
        let end = Instant::now() + span;
        while Instant::now() < end {
            let answer = code(&mut self.client(), secret, Duration::from_secs(2)).await;
            if answer.is_ok_and(|code| code == Code::Valid) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }

    /// Restores the connection to the database, with new connections.
    pub fn reconnect(&self) {
        self.proxy.reset();
        self.proxy.silence(false);
    }

    /// Waits for a line in the log.
    pub async fn logs(&self, line: &str) {
        grpc::eventually(Duration::from_secs(20), line, async || self.log().contains(line)).await;
    }

    /// The step of the replica's row; `None` if it has no row.
    pub async fn step(&self, database: &mut PgConnection) -> Option<i64> {
        let log = self.log();
        let id = log.rsplit_once("joined replica=").expect("it has joined").1.split(' ').next().unwrap_or_default();
        let step = sqlx::query_scalar("SELECT step FROM keyward_replicas WHERE id = $1::uuid").bind(id);
        step.fetch_optional(database).await.expect("Postgres answers")
    }

    /// Waits until `/readyz` reports that the replica is ready.
    pub async fn is_ready_within(&self, bound: Duration) {
        grpc::eventually(bound, "the replica is ready", async || self.is_ready().await).await;
    }

    /// Waits until the replica's lease is live, by its metrics. `/readyz` shows that up to some seconds later, since it
    /// also waits for a measurement of the database.
    pub async fn has_lease_within(&self, bound: Duration) {
        grpc::eventually(bound, "the lease is live", async || self.has_lease().await).await;
    }

    async fn has_lease(&self) -> bool {
        let request = self.server(|server| server.rest("GET", "/metrics"));
        let Ok(response) = request.send().await else { return false };
        let text = response.text().await.unwrap_or_default();
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("keyward_lease_seconds "));
        lines.any(|seconds| seconds.parse().is_ok_and(|seconds: f64| seconds > 0.0))
    }

    /// Whether `/readyz` reports that the replica is ready.
    pub async fn is_ready(&self) -> bool {
        let request = self.server(|server| server.rest("GET", "/readyz"));
        request.send().await.is_ok_and(|response| response.status().is_success())
    }
}

/// The verdict on a secret, with a deadline.
pub async fn code(client: &mut Client, secret: &str, bound: Duration) -> Result<Code, Status> {
    let mut request = with(ROOT, VerifyRequest { secret: secret.into(), ..VerifyRequest::default() });
    request.set_timeout(bound);
    Ok(client.verify(request).await?.into_inner().code())
}

fn serve(proxy: &Proxy, start: &Start) -> Result<Server, String> {
    let Start { lease, faults } = start;
    let setup = Setup::new()
        .database(&url(proxy.address()))
        .env("KEYWARD_REPLICA_LEASE", &format!("{}ms", lease.as_millis()))
        .env("KEYWARD_LOG", "info,keyward::transport=error,keyward::service=error")
        .env("KEYWARD_FAULTS", faults);
    tokio::task::block_in_place(|| setup.try_start())
}

fn client(server: &Server) -> Client {
    let endpoint = Channel::from_shared(format!("http://{}", server.grpc)).expect("an address");
    KeyServiceClient::new(endpoint.tcp_nodelay(true).connect_lazy())
}

/// A client that is attached to the server at an address.
pub fn attach_to(address: &str) -> keyward_client::Client {
    let client = keyward_client::Client::builder(format!("http://{address}")).credential(ROOT).build();
    let client = client.expect("a client");
    client.attach(keyward_client::AttachOptions::default()).expect("it attaches");
    client
}

/// The verdict of an attached client on a secret, with a deadline.
pub async fn attached_code(client: &keyward_client::Client, secret: &str, bound: Duration) -> Result<Code, Status> {
    match client.verify(secret).timeout(bound).await {
        Ok(verdict) if verdict.is_valid() => Ok(Code::Valid),
        // Which other verdict it is makes no difference here.
        Ok(_) => Ok(Code::Revoked),
        Err(error) => Err(Status::unavailable(error.to_string())),
    }
}

/// Replicas on one Postgres.
pub struct Cluster {
    /// The Postgres.
    pub database: Database,
    /// The replicas.
    pub replicas: Vec<Arc<Replica>>,
}

impl Cluster {
    /// Starts a replica for each entry, on a new Postgres with synchronous commit.
    pub async fn start(starts: impl IntoIterator<Item = Start>) -> Self {
        let database = tokio::task::block_in_place(|| Database::start("-c synchronous_commit=on"));
        Self::on(database, starts).await
    }

    /// Starts a replica for each entry on this Postgres.
    pub async fn on(database: Database, starts: impl IntoIterator<Item = Start>) -> Self {
        let mut replicas = Vec::new();
        for start in starts {
            replicas.push(Arc::new(Replica::new(&database, start).await));
        }
        Self { database, replicas }
    }

    /// Starts two replicas.
    pub async fn pair(start: Start) -> (Self, Arc<Replica>, Arc<Replica>) {
        let cluster = Self::start([start.clone(), start]).await;
        let (first, second) = (Arc::clone(&cluster.replicas[0]), Arc::clone(&cluster.replicas[1]));
        (cluster, first, second)
    }

    /// A new key that every replica has cached.
    pub async fn warm_key(&self) -> Made {
        let request = keyward::proto::CreateRequest { name: "warm".into(), ..Default::default() };
        let made = grpc::made(grpc::create(&mut self.replicas[0].client(), ROOT, request).await);
        for replica in &self.replicas {
            for _ in 0..2 {
                assert_eq!(replica.code(&made.secret).await.expect("an answer"), Code::Valid);
            }
        }
        made
    }
}
