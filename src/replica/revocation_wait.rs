//! Revoke's wait: until every replica that may answer from its cache has applied the change, has left, or can only hold
//! an expired lease.

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

use super::{fault_injection, lease::LEASE_MARGIN};
use crate::store::{ReplicaRow, Store};

/// Delay between two reads of the replicas' rows when no notification arrives.
const POLL_INTERVAL: Duration = Duration::from_millis(15);
/// Delay after a failed read.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// How often the idle reader checks whether it is still needed.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The replicas' rows, as one statement read them.
#[derive(Debug, Clone)]
struct ReplicasRead {
    /// Number of reads that began up to and including this one.
    number: u64,
    rows: Arc<Vec<ReplicaRow>>,
}

/// Reads the replicas' rows on behalf of all waiting Revokes: one statement at a time, however many wait.
pub struct RevocationWait {
    reads_begun: AtomicU64,
    read_wanted: Notify,
    reads: watch::Sender<ReplicasRead>,
    /// Changes whenever a replica may have reported progress.
    progress: watch::Sender<u64>,
}

impl RevocationWait {
    /// Starts the reader on `runtime`. It reads only while a Revoke waits.
    pub fn start(store: Arc<dyn Store>, runtime: &Handle) -> Arc<Self> {
        let none = ReplicasRead { number: 0, rows: Arc::default() };
        let this = Arc::new(Self {
            reads_begun: AtomicU64::new(0),
            read_wanted: Notify::new(),
            reads: watch::Sender::new(none),
            progress: watch::Sender::new(0),
        });
        runtime.spawn(read_on_demand(Arc::downgrade(&this), store));
        this
    }

    /// Notifies the waiting Revokes that a replica may have reported progress.
    pub(crate) fn on_progress(&self) {
        self.progress.send_modify(|count| *count += 1);
    }

    /// The result of a read that begins after this call.
    async fn next_read(&self, reads: &mut watch::Receiver<ReplicasRead>) -> ReplicasRead {
        let wanted = self.reads_begun.load(Ordering::SeqCst) + 1;
        self.read_wanted.notify_one();
        let found = reads.wait_for(|read| read.number >= wanted).await.map(|read| read.clone()).ok();
        match found {
            Some(read) => read,
            // The sender is gone, so the service is shutting down. Never return: returning would acknowledge the Revoke.
            None => std::future::pending().await,
        }
    }

    /// Returns once no replica can answer from a state before `revision`. Call this after the change was committed.
    ///
    /// Only the replicas of the first read count: a replica that joins later starts from a revision that includes the
    /// change. Only the time since that read counts, on this process's own clock, so clocks are never compared.
    ///
    /// Returns how many replicas that read found.
    pub async fn wait(&self, revision: i64) -> usize {
        if fault_injection::disabled("acknowledge") {
            return 0;
        }
        let mut reads = self.reads.subscribe();
        let mut progress = self.progress.subscribe();
        let mut read = self.next_read(&mut reads).await;
        let began = Instant::now();
        let replicas = read.rows.len();
        let mut behind: Vec<ReplicaRow> =
            read.rows.iter().filter(|row| row.seen_revision < revision).copied().collect();
        loop {
            let Some(longest) = behind.iter().map(|row| row.lease_ms).max() else { return replicas };
            let lease = Duration::from_millis(u64::try_from(longest).unwrap_or(0));
            let lease = if fault_injection::disabled("whole_wait") { lease / 10 } else { lease + LEASE_MARGIN };
            let expiry = began + lease;
            if Instant::now() >= expiry {
                return replicas;
            }
            tokio::select! {
                _ = progress.changed() => {}
                () = sleep(POLL_INTERVAL) => {}
                () = sleep_until(expiry) => return replicas,
            }
            progress.mark_unchanged();
            // While the database is unavailable no read succeeds, but the leases expire all the same.
            read = tokio::select! {
                read = self.next_read(&mut reads) => read,
                () = sleep_until(expiry) => return replicas,
            };
            let is_behind = |id: Uuid| read.rows.iter().any(|row| row.id == id && row.seen_revision < revision);
            behind.retain(|row| is_behind(row.id));
        }
    }
}

async fn read_on_demand(waits: std::sync::Weak<RevocationWait>, store: Arc<dyn Store>) {
    loop {
        let Some(this) = waits.upgrade() else { return };
        if tokio::time::timeout(IDLE_CHECK_INTERVAL, this.read_wanted.notified()).await.is_err() {
            continue;
        }
        loop {
            let number = this.reads_begun.fetch_add(1, Ordering::SeqCst) + 1;
            match store.replicas().await {
                Ok(rows) => {
                    this.reads.send_replace(ReplicasRead { number, rows: Arc::new(rows) });
                    break;
                }
                Err(error) => {
                    // The Revokes keep waiting, each until its own deadline.
                    tracing::debug!(%error, "replicas cannot be read, retrying");
                    sleep(RETRY_DELAY).await;
                }
            }
        }
    }
}
