//! A follower on a real database.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
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
        Result, Store,
        change_feed::{ChangeBatch, ChangeFeed},
        postgres::change_feed::PostgresChangeFeed,
    },
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::fixture::{eventually, open_postgres, postgres_options};

/// Panics at its next read when `breaks` is set.
struct Fragile {
    feed: PostgresChangeFeed,
    breaks: Arc<AtomicBool>,
}

#[async_trait]
impl ChangeFeed for Fragile {
    async fn connect(&mut self) -> Result<()> {
        self.feed.connect().await
    }
    async fn join(&mut self, id: Uuid, lease_ms: i64) -> Result<i64> {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_panics_is_replaced() {
    let store = open_postgres(postgres_options().await).await;
    let keys = Arc::clone(&store) as Arc<dyn Store>;
    let registry = Arc::new(Registry::new(Vec::new()));
    let replica =
        Replica::new(keys, registry, Arc::new(SystemClock), 1 << 20, PeerMode::Replicated, &Handle::current());
    let (lease, breaks, stop) =
        (Arc::clone(&replica.lease), Arc::new(AtomicBool::new(false)), CancellationToken::new());
    let (breaking, stopping, options) = (Arc::clone(&breaks), stop.clone(), store.connect_options());
    let replica = Arc::new(replica);
    let memory = Arc::clone(&replica);
    let make = move || {
        let feed = Fragile {
            feed: PostgresChangeFeed::new(options.clone(), Duration::from_secs(1)),
            breaks: Arc::clone(&breaking),
        };
        let (clock, entropy, length) = (Arc::new(SystemClock), Arc::new(SystemEntropy), Duration::from_secs(3));
        let follower = Follower::new(feed, &memory, clock, entropy, length, stopping.clone());
        (follower, std::future::pending())
    };
    let thread = follower_thread::spawn(make).unwrap();
    eventually("memory may answer", async || lease.holds()).await;
    for _ in 0..2 {
        let before = store.replicas().await.unwrap();
        breaks.store(true, Ordering::SeqCst);
        replica.follower_wake.notify_one();
        eventually("it has panicked", async || !breaks.load(Ordering::SeqCst)).await;
        eventually("another one has joined", async || {
            lease.holds() && store.replicas().await.unwrap().iter().any(|row| before.iter().all(|old| old.id != row.id))
        })
        .await;
    }
    stop.cancel();
    follower_thread::wait_for_exit(thread).await;
    assert!(!lease.holds());
}
