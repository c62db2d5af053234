//! The promise in attached clients and agents: processes of their own, which are stopped, killed, cut off, black-holed,
//! moved between replicas and resumed after their lease, while their replicas are killed, drained and paused, too. A
//! check that starts in a client after Revoke returned is never VALID.

mod faults;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use keyward::proto::{CreateRequest, RevokeRequest};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    client_process::{ClientProcess, Finding, findings, monotonic},
    cluster::{Cluster, Replica},
    proxy::Proxy,
    storm_settings::StormSettings,
    support::{
        grpc,
        server::{ROOT, with},
    },
};

const REPLICAS: usize = 3;
const CLIENTS: usize = 6;
/// The last of them are agents.
const AGENTS: usize = 2;
/// Revoking tasks. While a replica or a client is away, a Revoke takes as long as its lease or grant.
const REVOKERS: u64 = 64;
/// How long a key waits until clients hold it.
const HOLD_TIMEOUT: Duration = Duration::from_millis(800);
/// Clients that should hold a key before it is revoked.
const HOLDERS: usize = 2;

/// A key under test.
struct Key {
    index: usize,
    id: String,
    secret: String,
    /// When a Revoke first returned OK, in nanoseconds on the clock that all processes share.
    revoked: OnceLock<u64>,
}

/// The file of one process that has ended, or will.
struct Found {
    file: PathBuf,
    client: usize,
    /// When a Revoke of the credential of the client returned OK.
    credential_revoked: Option<u64>,
}

/// One client: its process, and its own ways to all replicas.
struct Client {
    number: usize,
    proxies: Vec<Proxy>,
    process: Mutex<Option<ClientProcess>>,
    /// The id of the key that is its credential.
    credential: Mutex<String>,
    /// Locked while a fault is injected.
    disturbed: tokio::sync::Mutex<()>,
}

impl Client {
    fn is_agent(&self) -> bool {
        self.number >= CLIENTS - AGENTS
    }

    /// What its process found about a key so far.
    fn finding(&self, key: &Key) -> Finding {
        self.process.lock().unwrap().as_ref().map(|process| process.finding(key.index)).unwrap_or_default()
    }

    /// Whether it holds a key: which calls an agent answers from memory, it does not say.
    fn holds(&self, key: &Key) -> bool {
        let Finding { from_memory, by_call, .. } = self.finding(key);
        from_memory > 0 || self.is_agent() && by_call > 1
    }
}

struct Storm {
    replicas: Vec<Arc<Replica>>,
    disturbed: Vec<tokio::sync::Mutex<()>>,
    clients: Vec<Client>,
    folder: tempfile::TempDir,
    found: Mutex<Vec<Found>>,
    keys: Mutex<Vec<Arc<Key>>>,
    processes: AtomicUsize,
    over: AtomicBool,
    revocations: AtomicU64,
    /// Keys of which a client answered VALID from memory before their Revoke began: how many clients in all.
    held: AtomicU64,
    unanswered: AtomicU64,
    faults: Mutex<BTreeMap<&'static str, u64>>,
    longest_revoke: Mutex<Duration>,
}

fn millis(random: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(random.random_range(from..to))
}

impl Storm {
    fn fault(&self, kind: &'static str) {
        *self.faults.lock().unwrap().entry(kind).or_default() += 1;
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn any_replica(&self, random: &mut StdRng) -> grpc::Client {
        self.replicas[random.random_range(0..REPLICAS)].client()
    }

    /// Starts a process for a client, with a credential of its own.
    async fn start(&self, client: &Client) {
        let request = CreateRequest {
            keyspace: "keyward".into(),
            scopes: vec!["verify".into()],
            name: "client".into(),
            ..CreateRequest::default()
        };
        let made = self.create(request).await;
        let number = self.processes.fetch_add(1, Ordering::SeqCst);
        let file = self.folder.path().join(format!("client-{number}"));
        let mut addresses: Vec<_> = client.proxies.iter().map(|proxy| proxy.address().to_string()).collect();
        addresses.rotate_left(number % REPLICAS);
        *client.credential.lock().unwrap() = made.id;
        self.found.lock().unwrap().push(Found { file: file.clone(), client: client.number, credential_revoked: None });
        let process = if client.is_agent() {
            tokio::task::block_in_place(|| ClientProcess::start_agent(&file, &made.secret, &addresses))
        } else {
            ClientProcess::start(&file, &made.secret, &addresses)
        };
        for key in self.keys.lock().unwrap().iter().filter(|key| key.revoked.get().is_none()) {
            process.watch(key.index, &key.secret);
        }
        *client.process.lock().unwrap() = Some(process);
    }

    /// Creates a key at whichever replica answers.
    async fn create(&self, request: CreateRequest) -> grpc::Made {
        let start = Instant::now();
        for replica in self.replicas.iter().cycle() {
            let mut call = with(ROOT, request.clone());
            call.set_timeout(Duration::from_secs(2));
            match replica.client().create(call).await {
                Ok(created) => return grpc::made(created.into_inner()),
                Err(status) => assert!(start.elapsed() < Duration::from_secs(60), "no replica creates a key: {status}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
        unreachable!("the replicas go round")
    }

    fn holders(&self, key: &Key) -> usize {
        self.clients.iter().filter(|client| client.holds(key)).count()
    }

    /// Creates keys, lets clients hold them, and revokes them, one after the other.
    async fn revoker(self: Arc<Self>, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        while !self.is_over() {
            let mut request = with(ROOT, CreateRequest { name: "load".into(), ..CreateRequest::default() });
            request.set_timeout(Duration::from_secs(2));
            let Ok(created) = self.any_replica(&mut random).create(request).await else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            let made = grpc::made(created.into_inner());
            let key = {
                let mut keys = self.keys.lock().unwrap();
                let key = Key { index: keys.len(), id: made.id, secret: made.secret, revoked: OnceLock::new() };
                keys.push(Arc::new(key));
                Arc::clone(keys.last().expect("it was pushed"))
            };
            for client in &self.clients {
                if let Some(process) = &*client.process.lock().unwrap() {
                    process.watch(key.index, &key.secret);
                }
            }
            let end = Instant::now() + HOLD_TIMEOUT;
            while self.holders(&key) < HOLDERS && Instant::now() < end {
                sleep(Duration::from_millis(5)).await;
            }
            self.held.fetch_add(self.holders(&key) as u64, Ordering::Relaxed);
            while key.revoked.get().is_none() && !self.is_over() {
                self.try_revoke(&key, &mut random).await;
            }
        }
    }

    async fn try_revoke(&self, key: &Key, random: &mut StdRng) {
        let started = Instant::now();
        // Sometimes the caller does not wait until the end, and repeats the call.
        let bound = if random.random_bool(0.15) { millis(random, 1, 300) } else { Duration::from_secs(8) };
        let mut request = with(ROOT, RevokeRequest { id: key.id.clone(), reason: String::new() });
        request.set_timeout(bound);
        let answer = self.any_replica(random).revoke(request).await;
        // From here on no check that starts may be VALID.
        let returned = monotonic();
        if answer.is_ok() {
            let _ = key.revoked.set(returned);
            self.revocations.fetch_add(1, Ordering::Relaxed);
            let mut longest = self.longest_revoke.lock().unwrap();
            *longest = longest.max(started.elapsed());
        } else {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Every check that started too late and was VALID, and the counts of all.
    fn judge(&self) -> (Vec<String>, Finding) {
        let keys = self.keys.lock().unwrap();
        let (mut violations, mut sum) = (Vec::new(), Finding::default());
        for found in &*self.found.lock().unwrap() {
            for (key, finding) in keys.iter().zip(findings(&found.file)) {
                sum.from_memory += finding.from_memory;
                sum.by_call += finding.by_call;
                sum.refused += finding.refused;
                sum.undecided += finding.undecided;
                let ends = [
                    ("its Revoke", key.revoked.get().copied()),
                    ("the Revoke of the client", found.credential_revoked),
                ];
                for (what, end) in ends {
                    if let Some(end) = end.filter(|end| finding.valid_started > *end) {
                        let late = Duration::from_nanos(finding.valid_started - end);
                        let Found { file, client, .. } = found;
                        let file = file.file_name().unwrap_or_default().display();
                        violations
                            .push(format!("{file}, client {client}: {} VALID, asked {late:?} after {what}", key.id));
                    }
                }
            }
        }
        (violations, sum)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_check_that_starts_in_a_client_after_revoke_returned_is_valid() {
    let StormSettings { seconds, seed, starts } = StormSettings::read(20, REPLICAS);
    let Cluster { database, replicas } = Cluster::start(starts).await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut proxies = Vec::new();
        for replica in &replicas {
            let address: SocketAddr = replica.server(|server| server.grpc.parse()).expect("an address");
            proxies.push(Proxy::start(address).await);
        }
        clients.push(Client {
            number,
            proxies,
            process: Mutex::default(),
            credential: Mutex::default(),
            disturbed: tokio::sync::Mutex::default(),
        });
    }
    let storm = Arc::new(Storm {
        disturbed: replicas.iter().map(|_| tokio::sync::Mutex::default()).collect(),
        replicas,
        clients,
        folder: tempfile::tempdir().expect("a folder"),
        found: Mutex::default(),
        keys: Mutex::default(),
        processes: AtomicUsize::new(0),
        over: AtomicBool::new(false),
        revocations: AtomicU64::new(0),
        held: AtomicU64::new(0),
        unanswered: AtomicU64::new(0),
        faults: Mutex::default(),
        longest_revoke: Mutex::default(),
    });
    storm.fault("wall clock stepping");
    for client in &storm.clients {
        storm.start(client).await;
    }

    let mut revokers = JoinSet::new();
    for task in 0..REVOKERS {
        revokers.spawn(Arc::clone(&storm).revoker(seed ^ task << 20));
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut disturbing = JoinSet::new();
    disturbing.spawn(Arc::clone(&storm).disturb_clients(seed ^ 1, end));
    disturbing.spawn(Arc::clone(&storm).disturb_clients(seed ^ 2, end));
    disturbing.spawn(Arc::clone(&storm).disturb_replicas(seed ^ 3, end));
    while let Some(ended) = disturbing.join_next().await {
        ended.expect("the faults are injected");
    }
    storm.over.store(true, Ordering::SeqCst);
    while let Some(ended) = revokers.join_next().await {
        ended.expect("the caller ends without a panic");
    }
    // Longer than a grant and the margin: what a client still holds has shown itself.
    sleep(Duration::from_secs(2)).await;
    for client in &storm.clients {
        let process = client.process.lock().unwrap().take();
        if let Some(process) = process {
            tokio::task::block_in_place(|| assert!(process.stop(), "a client does not stop"));
        }
    }

    let (violations, sum) = storm.judge();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let faults: Vec<_> = storm.faults.lock().unwrap().iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!(
        "revocations {} (without OK at first {}), the longest took {:?}\n\
         keys in the memory of a client when their Revoke began: {}\n\
         checks in clients: VALID from memory {}, VALID by a call or an agent {}, refused {}, without a verdict {}\n\
         VALID after a Revoke: {}\n\
         processes of clients {}; faults: {}",
        count(&storm.revocations),
        count(&storm.unanswered),
        storm.longest_revoke.lock().unwrap(),
        count(&storm.held),
        sum.from_memory,
        sum.by_call,
        sum.refused,
        sum.undecided,
        violations.len(),
        storm.processes.load(Ordering::SeqCst),
        faults.join(", "),
    );
    drop(database);
    assert!(violations.is_empty(), "seed {seed}:\n{}", violations.join("\n"));
    assert!(count(&storm.revocations) > 100, "too few revocations to be meaningful");
    assert!(count(&storm.held) > 100 && sum.from_memory > 1_000, "memory answered too seldom to be meaningful");
}
