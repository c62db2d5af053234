//! A follower on a real database.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use keyward::{
    domain::{
        clock::{SystemClock, SystemEntropy},
        keyspace::Registry,
    },
    replica::{PeerMode, Replica, follower::Follower, follower_thread},
    store::{
        KeyStore as _, Result, Store,
        change_feed::{ChangeBatch, ChangeFeed},
        postgres::change_feed::PostgresChangeFeed,
    },
};
use tokio::{runtime::Handle, sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::fixture::{eventually, key, open_postgres, postgres_options};

/// Panics at its next read when `breaks` is set, and joins only while the gate is open.
struct Fragile {
    feed: PostgresChangeFeed,
    breaks: Arc<AtomicBool>,
    gate: watch::Receiver<bool>,
}

#[async_trait]
impl ChangeFeed for Fragile {
    async fn connect(&mut self) -> Result<()> {
        self.feed.connect().await
    }
    async fn join(&mut self, id: Uuid, lease_ms: i64) -> Result<i64> {
        self.gate.wait_for(|open| *open).await.unwrap();
        self.feed.join(id, lease_ms).await
    }
    async fn renew(&mut self, id: Uuid, step: i64, next: i64) -> Result<bool> {
        self.feed.renew(id, step, next).await
    }
    async fn read(&mut self, seen: i64) -> Result<ChangeBatch> {
        assert!(!self.breaks.swap(false, Ordering::SeqCst), "the test asked for a panic");
        self.feed.read(seen).await
    }
    async fn report(&mut self, id: Uuid, seen: i64) -> Result<()> {
        self.feed.report(id, seen).await
    }
    async fn remove(&mut self, id: Uuid, step: Option<i64>) -> Result<()> {
        self.feed.remove(id, step).await
    }
}

/// The lease is far longer than the test, so that it ends by the panic and not by itself.
const LEASE: Duration = Duration::from_mins(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_panics_is_replaced_and_the_lease_ends_until_then() {
    let store = open_postgres(postgres_options().await).await;
    let keys = Arc::clone(&store) as Arc<dyn Store>;
    let registry = Arc::new(Registry::new(Vec::new()));
    let replica =
        Replica::new(keys, registry, Arc::new(SystemClock), 1 << 20, PeerMode::Replicated, &Handle::current());
    let (breaks, pauses, stop) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let (breaking, stopping, options) = (Arc::clone(&breaks), stop.clone(), store.connect_options());
    let (gate, opened) = watch::channel(true);
    let replica = Arc::new(replica);
    let memory = Arc::clone(&replica);
    let make = move || {
        let feed = Fragile {
            feed: PostgresChangeFeed::new(options.clone(), Duration::from_secs(1)),
            breaks: Arc::clone(&breaking),
            gate: opened.clone(),
        };
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let follower = Follower::new(feed, &memory, clock, entropy, LEASE, stopping.clone());
        (follower, std::future::pending())
    };
    let (pausing, lease) = (Arc::clone(&pauses), Arc::clone(&replica.lease));
    let pause = move || {
        assert!(!lease.holds(), "the lease ends before anything else happens");
        pausing.fetch_add(1, Ordering::SeqCst);
    };
    let thread = follower_thread::spawn(make, pause).unwrap();
    eventually("memory may answer", async || replica.lease.holds()).await;
    let created = key();
    let digest = created.digest;
    store.create_key(created).await.unwrap();
    let soon = || Instant::now() + Duration::from_secs(10);
    for round in 1..=2 {
        let before = store.replicas().await.unwrap();
        replica.look_up(digest, soon()).await.unwrap();
        assert!(replica.cache_guard().unwrap().get(&digest).is_some(), "memory answers");
        gate.send(false).unwrap();
        breaks.store(true, Ordering::SeqCst);
        replica.follower_wake.notify_one();
        eventually("it has panicked", async || pauses.load(Ordering::SeqCst) == round).await;
        // Answers come from the database alone until another follower has joined.
        assert!(replica.cache_guard().is_none());
        assert!(replica.look_up(digest, soon()).await.unwrap().is_some());
        assert!(replica.cache_guard().is_none());
        gate.send(true).unwrap();
        eventually("another one has joined", async || {
            replica.lease.holds()
                && store.replicas().await.unwrap().iter().any(|row| before.iter().all(|old| old.id != row.id))
        })
        .await;
        // What was in memory before the join is gone.
        assert!(replica.cache_guard().unwrap().get(&digest).is_none());
    }
    stop.cancel();
    thread.wait_for_exit().await;
    assert!(!replica.lease.holds());
}
