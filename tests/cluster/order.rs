//! The follower's order of steps where processes cannot show it: on a feed that is a piece of paper.

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

/// What is on the paper.
#[derive(Default)]
struct Notes {
    row: Mutex<Option<ReplicaRow>>,
    joins: AtomicU64,
    /// Whether memory could still answer when a row was removed.
    held_at_removal: Mutex<Vec<bool>>,
    /// Renewals that say that they were done and leave no trace, as in a transaction that is never committed.
    hollow: AtomicI64,
}

struct Paper {
    notes: Arc<Notes>,
    lease: Arc<Lease>,
}

#[async_trait]
impl ChangeFeed for Paper {
    async fn connect(&mut self) -> Result<()> {
        Ok(())
    }

    async fn join(&mut self, id: Uuid, lease_ms: i64) -> Result<i64> {
        self.notes.joins.fetch_add(1, Ordering::SeqCst);
        *self.notes.row.lock().await = Some(ReplicaRow { id, step: 0, lease_ms, seen_revision: -1 });
        Ok(7)
    }

    async fn renew(&mut self, _: Uuid, step: i64, next: i64) -> Result<bool> {
        if self.notes.hollow.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Ok(true);
        }
        let mut row = self.notes.row.lock().await;
        let row = row.as_mut().filter(|row| row.step == step);
        Ok(row.map(|row| row.step = next).is_some())
    }

    async fn read(&mut self, _: i64) -> Result<ChangeBatch> {
        let replicas = self.notes.row.lock().await.iter().copied().collect();
        Ok(ChangeBatch { replicas, head: 7, complete: true, ..ChangeBatch::default() })
    }

    async fn report(&mut self, _: Uuid, seen: i64) -> Result<()> {
        if let Some(row) = self.notes.row.lock().await.as_mut() {
            row.seen_revision = seen;
        }
        Ok(())
    }

    async fn remove(&mut self, id: Uuid, _: Option<i64>) -> Result<()> {
        self.notes.held_at_removal.lock().await.push(self.lease.holds());
        let mut row = self.notes.row.lock().await;
        if row.is_some_and(|row| row.id == id) {
            *row = None;
        }
        Ok(())
    }
}

/// Follows until `enough`, then stops and leaves.
async fn follow(hollow: i64, enough: impl AsyncFn(&Notes, &Lease) -> bool) -> Arc<Notes> {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("keyward.db").display());
    let store = Sqlite::open(SqliteOptions::new(url, Handle::current())).await.expect("a store");
    let registry = Arc::new(Registry::new(vec![Keyspace::default_keyspace()]));
    let clock = Arc::new(SystemClock);
    let store: Arc<dyn Store> = store;
    let replica = Replica::new(store, registry, clock.clone(), 1 << 20, PeerMode::SingleProcess, &Handle::current());
    let notes = Arc::new(Notes { hollow: AtomicI64::new(hollow), ..Notes::default() });
    let paper = Paper { notes: Arc::clone(&notes), lease: Arc::clone(&replica.lease) };
    let stop = CancellationToken::new();
    let follower = Follower::new(paper, &replica, clock, Arc::new(SystemEntropy), LEASE, stop.clone());
    let watching = async {
        eventually(Duration::from_secs(10), "it goes on", async || enough(&notes, &replica.lease).await).await;
        stop.cancel();
    };
    tokio::join!(follower.run(), watching);
    assert!(!replica.lease.holds(), "it has left, and could still answer from memory");
    notes
}

#[tokio::test]
async fn a_replica_that_leaves_answers_no_more_before_its_row_is_removed() {
    let joined = async |_: &Notes, lease: &Lease| lease.holds();
    let held = async |notes: Arc<Notes>| notes.held_at_removal.lock().await.clone();
    assert_eq!(held(follow(0, joined).await).await, [false]);
    let _back = fault_injection::disable("leave_order");
    let without = held(follow(0, joined).await).await;
    assert!(without.contains(&true), "the test does not show that the order is needed");
}

#[tokio::test]
async fn a_renewal_that_does_not_show_extends_nothing() {
    let notes = follow(1, async |notes, lease| notes.joins.load(Ordering::SeqCst) == 2 && lease.holds()).await;
    // For the renewal that was never committed, and for the stop: memory had stopped answering each time.
    assert_eq!(*notes.held_at_removal.lock().await, [false, false]);
}
