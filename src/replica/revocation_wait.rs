//! Revoke's wait: until every replica that may answer from memory has applied the change, is gone, or can only hold a
//! lease that has run out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use uuid::Uuid;

use super::{fault_injection, follower::LEASE_MARGIN};
use crate::store::{ReplicaRow, Store};

/// Between two looks at the replicas, when no notification comes.
const POLL: Duration = Duration::from_millis(15);

/// The replicas as one look found them.
#[derive(Debug, Clone)]
struct Look {
    /// Looks that began before it.
    number: u64,
    rows: Arc<Vec<ReplicaRow>>,
}

/// Looks at the replicas for everyone who waits: one statement at a time, however many they are.
pub struct RevocationWait {
    begun: AtomicU64,
    wanted: Notify,
    looks: watch::Sender<Look>,
    /// A replica may have told of its progress.
    told: watch::Sender<u64>,
}

impl RevocationWait {
    /// Starts looking on `runtime`, whenever somebody wants it.
    pub fn start(store: Arc<dyn Store>, runtime: &Handle) -> Arc<Self> {
        let first = Look { number: 0, rows: Arc::default() };
        let board = Arc::new(Self {
            begun: AtomicU64::new(0),
            wanted: Notify::new(),
            looks: watch::Sender::new(first),
            told: watch::Sender::new(0),
        });
        runtime.spawn(look(Arc::downgrade(&board), store));
        board
    }

    /// A notification came, or may have been missed.
    pub fn tell(&self) {
        self.told.send_modify(|count| *count += 1);
    }

    /// A look that began after this call.
    async fn next_look(&self, looks: &mut watch::Receiver<Look>) -> Look {
        let wanted = self.begun.load(Ordering::SeqCst) + 1;
        self.wanted.notify_one();
        let found = looks.wait_for(|look| look.number >= wanted).await.map(|look| look.clone()).ok();
        match found {
            Some(look) => look,
            // The board is gone with its service: nobody waits for this answer.
            None => std::future::pending().await,
        }
    }

    /// Returns once no replica answers from a state before `revision`. To be called after its change was committed.
    ///
    /// Only the replicas of the first look matter: one that joins later reads a revision that has the change. Only what
    /// passes on this clock since that look matters, so no two clocks are ever compared.
    pub async fn wait(&self, revision: i64) {
        if fault_injection::disabled("acknowledge") {
            return;
        }
        let mut looks = self.looks.subscribe();
        let mut told = self.told.subscribe();
        let mut look = self.next_look(&mut looks).await;
        let began = Instant::now();
        let mut behind: Vec<ReplicaRow> =
            look.rows.iter().filter(|row| row.seen_revision < revision).copied().collect();
        loop {
            let Some(longest) = behind.iter().map(|row| row.lease_ms).max() else { return };
            let lease = Duration::from_millis(u64::try_from(longest).unwrap_or(0));
            let lease = if fault_injection::disabled("whole_wait") { lease / 10 } else { lease + LEASE_MARGIN };
            let bound = began + lease;
            if Instant::now() >= bound {
                return;
            }
            tokio::select! {
                _ = told.changed() => {}
                () = sleep(POLL) => {}
                () = sleep_until(bound) => return,
            }
            told.mark_unchanged();
            // While the database is away there is no look, and the leases run out all the same.
            look = tokio::select! {
                look = self.next_look(&mut looks) => look,
                () = sleep_until(bound) => return,
            };
            let is_behind = |id: Uuid| look.rows.iter().any(|row| row.id == id && row.seen_revision < revision);
            behind.retain(|row| is_behind(row.id));
        }
    }
}

async fn look(board: std::sync::Weak<RevocationWait>, store: Arc<dyn Store>) {
    loop {
        let Some(this) = board.upgrade() else { return };
        let wanted = tokio::time::timeout(Duration::from_secs(1), this.wanted.notified()).await;
        if wanted.is_err() {
            continue;
        }
        loop {
            let number = this.begun.fetch_add(1, Ordering::SeqCst) + 1;
            match store.replicas().await {
                Ok(rows) => {
                    this.looks.send_replace(Look { number, rows: Arc::new(rows) });
                    break;
                }
                Err(error) => {
                    // Whoever waits goes on waiting, within its own deadline.
                    tracing::debug!(%error, "the replicas cannot be read");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}
