//! Callers: some verify keys all the time; others create, warm up and revoke them.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::{join, join_all};
use keyward::proto::{CreateRequest, RevokeRequest};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tonic::Code as Rpc;

use crate::{
    cluster::{Replica, attached_code, code},
    history::{History, Key},
    support::{
        grpc::Refusal,
        server::{ROOT, with},
    },
};

/// Number of recent keys that verifiers choose from.
const MAX_RECENT: usize = 256;

/// State shared by all callers.
pub struct Load {
    /// The replicas that are called.
    pub replicas: Vec<Arc<Replica>>,
    /// The answers.
    pub history: History,
    /// No fault is being injected, so latencies count.
    pub quiet: AtomicBool,
    /// Callers continue until this is set.
    pub over: AtomicBool,
    recent: Mutex<VecDeque<Arc<Key>>>,
}

impl Load {
    /// No callers yet.
    pub fn new(replicas: Vec<Arc<Replica>>) -> Self {
        Self {
            replicas,
            history: History::default(),
            quiet: AtomicBool::new(true),
            over: AtomicBool::new(false),
            recent: Mutex::default(),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Verifies one key on one replica, and records the answer. Returns whether there was a verdict.
    pub async fn check(&self, replica: usize, key: &Key, bound: Duration) -> bool {
        let mut client = self.replicas[replica].client();
        let revoked = key.is_revoked();
        let started = Instant::now();
        let answer = code(&mut client, &key.secret, bound).await;
        self.history.checked(replica, key, revoked, started, &answer);
        answer.is_ok()
    }

    /// The same by a client that is attached to the replica.
    pub async fn check_attached(&self, replica: usize, key: &Key, bound: Duration) -> bool {
        let client = self.replicas[replica].attached();
        let revoked = key.is_revoked();
        let started = Instant::now();
        let answer = attached_code(&client, &key.secret, bound).await;
        self.history.attached.fetch_add(1, Ordering::Relaxed);
        self.history.checked(replica, key, revoked, started, &answer);
        answer.is_ok()
    }

    /// Verifies a key on every replica concurrently.
    pub async fn check_everywhere(&self, key: &Key, bound: Duration) {
        join_all((0..self.replicas.len()).map(|replica| self.check(replica, key, bound))).await;
        join_all((0..self.replicas.len()).map(|replica| self.check_attached(replica, key, bound))).await;
    }

    /// The recent keys, the latest last.
    pub fn recent(&self) -> Vec<Arc<Key>> {
        self.recent.lock().unwrap().iter().cloned().collect()
    }

    fn remember(&self, key: Arc<Key>) {
        let mut recent = self.recent.lock().unwrap();
        recent.push_back(key);
        if recent.len() > MAX_RECENT {
            recent.pop_front();
        }
    }

    /// Verifies recent keys, sometimes with a very short deadline.
    pub async fn verifier(self: Arc<Self>, replica: usize, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        while !self.is_over() {
            let key = {
                let recent = self.recent.lock().unwrap();
                // Prefer newer keys: they are about to be revoked, or have just been revoked.
                let back = random.random_range(0..MAX_RECENT).min(random.random_range(0..MAX_RECENT));
                recent.len().checked_sub(1 + back).and_then(|index| recent.get(index).cloned())
            };
            let Some(key) = key else {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            };
            let bound = Duration::from_millis(if random.random_bool(0.05) { 2 } else { 3_000 });
            if random.random_bool(0.5) {
                if !self.check_attached(replica, &key, bound).await {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                // Memory answers without waiting for anything.
                tokio::task::yield_now().await;
            } else if random.random_bool(0.05) {
                let deadline = Duration::from_micros(random.random_range(0..3_000));
                let _ = tokio::time::timeout(deadline, self.check(replica, &key, bound)).await;
            } else if !self.check(replica, &key, bound).await {
                // The replica is unreachable or has no database. Retrying at once would only slow the others down.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Creates, warms up and revokes one key after another, in varying ways.
    pub async fn revoker(self: Arc<Self>, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        while !self.is_over() {
            let Some(key) = self.create(&mut random).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            self.check_everywhere(&key, Duration::from_millis(300)).await;
            self.remember(Arc::clone(&key));
            tokio::time::sleep(Duration::from_millis(random.random_range(0..30))).await;
            while !key.is_revoked() && !self.is_over() {
                self.try_revoke(&key, &mut random).await;
                if !key.is_revoked() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            if key.is_revoked() {
                self.history.revocations.fetch_add(1, Ordering::Relaxed);
                // Do not wait for these: a paused replica answers only after it continues.
                for replica in 0..self.replicas.len() {
                    let (load, key) = (Arc::clone(&self), Arc::clone(&key));
                    tokio::spawn(async move {
                        load.check_attached(replica, &key, Duration::from_secs(4)).await;
                        load.check(replica, &key, Duration::from_secs(4)).await;
                    });
                }
            }
        }
    }

    async fn create(&self, random: &mut StdRng) -> Option<Arc<Key>> {
        let mut client = self.replicas[random.random_range(0..self.replicas.len())].client();
        let mut request = with(ROOT, CreateRequest { name: "load".into(), ..CreateRequest::default() });
        request.set_timeout(Duration::from_secs(2));
        let created = client.create(request).await.ok()?.into_inner();
        Some(Arc::new(Key::new(created.key?.id, created.secret)))
    }

    async fn try_revoke(&self, key: &Key, random: &mut StdRng) {
        let first = random.random_range(0..self.replicas.len());
        let second = random.random_range(0..self.replicas.len());
        let short = Duration::from_millis(random.random_range(1..400));
        match random.random_range(0..10) {
            // The caller cancels the call.
            0 => {
                let deadline = Duration::from_micros(random.random_range(0..20_000));
                let _ = tokio::time::timeout(deadline, self.revoke(first, key, Duration::from_secs(5))).await;
                self.history.unanswered.fetch_add(1, Ordering::Relaxed);
            }
            // The caller's deadline is usually too short.
            1 | 2 => self.revoke(first, key, short).await,
            // The call is repeated on another replica while the first one still waits.
            3 | 4 => {
                let again = async {
                    tokio::time::sleep(short / 20).await;
                    self.revoke(second, key, Duration::from_secs(5)).await;
                };
                join(self.revoke(first, key, Duration::from_secs(5)), again).await;
            }
            _ => {
                let quiet = self.quiet.load(Ordering::SeqCst);
                let started = Instant::now();
                self.revoke(first, key, Duration::from_secs(5)).await;
                if quiet && self.quiet.load(Ordering::SeqCst) && key.is_revoked() {
                    self.history.quiet_revoke(started.elapsed());
                }
            }
        }
    }

    async fn revoke(&self, replica: usize, key: &Key, bound: Duration) {
        let mut client = self.replicas[replica].client();
        let mut request = with(ROOT, RevokeRequest { id: key.id.clone(), reason: String::new() });
        request.set_timeout(bound);
        match client.revoke(request).await {
            Ok(_) => key.revoked(),
            Err(status) => {
                let refusal = Refusal::of(&status);
                let unsound = matches!(status.code(), Rpc::NotFound | Rpc::Internal | Rpc::Unknown);
                // Without the domain, the status comes from the transport: a broken connection.
                if unsound && refusal.domain == "keyward" {
                    self.history.violations.lock().unwrap().push(format!("Revoke of {}: {refusal:?}", key.id));
                }
                let pending = refusal.reason == "REVOCATION_PENDING";
                let counter = if pending { &self.history.pending } else { &self.history.unanswered };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
