//! The order of the follower's steps, where real processes cannot show it: on a change feed in memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use keyward::{
    domain::{
        clock::{SystemClock, SystemEntropy},
        keyspace::{Keyspace, Registry},
    },
    replica::{PeerMode, Replica, fault_injection, follower::Follower, lease::Lease},
    store::{
        ReplicaRow, Result, Store,
        change_feed::{ChangeBatch, ChangeFeed},
        sqlite::{Sqlite, SqliteOptions},
    },
};
use tokio::{runtime::Handle, sync::Mutex};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::grpc::eventually;

const LEASE: Duration = Duration::from_millis(600);

/// The state of the fake database.
#[derive(Default)]
struct FakeState {
    row: Mutex<Option<ReplicaRow>>,
    joins: AtomicU64,
    /// For each removal of a row, whether the lease still held.
    lease_held_at_removal: Mutex<Vec<bool>>,
    /// Number of renewals that are answered with success but not stored, as in a transaction that is never committed.
    uncommitted: AtomicI64,
}

struct FakeFeed {
    state: Arc<FakeState>,
    lease: Arc<Lease>,
}

#[async_trait]
impl ChangeFeed for FakeFeed {
    async fn connect(&mut self) -> Result<()> {
        Ok(())
    }

    async fn join(&mut self, id: Uuid, lease_ms: i64) -> Result<i64> {
        self.state.joins.fetch_add(1, Ordering::SeqCst);
        *self.state.row.lock().await = Some(ReplicaRow { id, step: 0, lease_ms, seen_revision: -1 });
        Ok(7)
    }

    async fn renew(&mut self, _: Uuid, step: i64, next: i64) -> Result<bool> {
        if self.state.uncommitted.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Ok(true);
        }
        let mut row = self.state.row.lock().await;
        let row = row.as_mut().filter(|row| row.step == step);
        Ok(row.map(|row| row.step = next).is_some())
    }

    async fn read(&mut self, _: i64) -> Result<ChangeBatch> {
        let replicas = self.state.row.lock().await.iter().copied().collect();
        Ok(ChangeBatch { replicas, head: 7, complete: true, ..ChangeBatch::default() })
    }

    async fn report(&mut self, _: Uuid, seen: i64) -> Result<()> {
        if let Some(row) = self.state.row.lock().await.as_mut() {
            row.seen_revision = seen;
        }
        Ok(())
    }

    async fn remove(&mut self, id: Uuid, _: Option<i64>) -> Result<()> {
        self.state.lease_held_at_removal.lock().await.push(self.lease.holds());
        let mut row = self.state.row.lock().await;
        if row.is_some_and(|row| row.id == id) {
            *row = None;
        }
        Ok(())
    }
}

/// Runs a follower until `done`, then stops it and waits until it has left.
async fn follow(uncommitted: i64, done: impl AsyncFn(&FakeState, &Lease) -> bool) -> Arc<FakeState> {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("keyward.db").display());
    let store = Sqlite::open(SqliteOptions::new(url, Handle::current())).await.expect("a store");
    let registry = Arc::new(Registry::new(vec![Keyspace::default_keyspace()]));
    let clock = Arc::new(SystemClock);
    let store: Arc<dyn Store> = store;
    let replica = Replica::new(store, registry, clock.clone(), 1 << 20, PeerMode::SingleProcess, &Handle::current());
    let state = Arc::new(FakeState { uncommitted: AtomicI64::new(uncommitted), ..FakeState::default() });
    let feed = FakeFeed { state: Arc::clone(&state), lease: Arc::clone(&replica.lease) };
    let stop = CancellationToken::new();
    let follower = Follower::new(feed, &replica, clock, Arc::new(SystemEntropy), LEASE, stop.clone());
    let watching = async {
        eventually(Duration::from_secs(10), "the follower gets there", async || done(&state, &replica.lease).await)
            .await;
        stop.cancel();
    };
    tokio::join!(follower.run(), watching);
    assert!(!replica.lease.holds(), "the replica has left, and its cache may still answer");
    state
}

#[tokio::test]
async fn a_leaving_replica_ends_its_lease_before_its_row_is_removed() {
    let joined = async |_: &FakeState, lease: &Lease| lease.holds();
    let held = async |state: Arc<FakeState>| state.lease_held_at_removal.lock().await.clone();
    assert_eq!(held(follow(0, joined).await).await, [false]);
    let _disabled = fault_injection::disable("leave_order");
    let without = held(follow(0, joined).await).await;
    assert!(without.contains(&true), "the test does not show that the order is needed");
}

#[tokio::test]
async fn a_renewal_that_is_not_committed_does_not_extend_the_lease() {
    let state = follow(1, async |state, lease| state.joins.load(Ordering::SeqCst) == 2 && lease.holds()).await;
    // One removal after the renewal that was never committed, one at the stop: the lease had ended both times.
    assert_eq!(*state.lease_held_at_removal.lock().await, [false, false]);
}
