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

/// The replicas' rows, as one statement read them.
#[derive(Debug, Clone)]
struct ReplicasRead {
    /// Number of reads that began up to and including this one.
    number: u64,
    rows: Arc<Vec<ReplicaRow>>,
}

/// Reads the replicas' rows on behalf of all waiting Revokes: one statement at a time, however many wait.
pub struct RevocationWait {
    store: Arc<dyn Store>,
    reads_started: AtomicU64,
    read_requested: Notify,
    reads: watch::Sender<ReplicasRead>,
    /// Changes whenever a replica may have reported progress.
    progress: watch::Sender<u64>,
}

impl RevocationWait {
    /// For the replicas whose rows are in this store. Revokes wait until a task runs [`Self::read`].
    pub fn new(store: Arc<dyn Store>) -> Self {
        let none = ReplicasRead { number: 0, rows: Arc::default() };
        Self {
            store,
            reads_started: AtomicU64::new(0),
            read_requested: Notify::new(),
            reads: watch::Sender::new(none),
            progress: watch::Sender::new(0),
        }
    }

    /// Notifies the waiting Revokes that a replica may have reported progress.
    pub(crate) fn on_progress(&self) {
        self.progress.send_modify(|count| *count += 1);
    }

    /// The result of a read that begins after this call.
    async fn next_read(&self, reads: &mut watch::Receiver<ReplicasRead>) -> ReplicasRead {
        let requested = self.reads_started.load(Ordering::SeqCst) + 1;
        self.read_requested.notify_one();
        let found = reads.wait_for(|read| read.number >= requested).await.map(|read| read.clone()).ok();
        match found {
            Some(read) => read,
            // Unreachable, because `self` owns the sender. Never return: that would acknowledge the Revoke.
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
            let Some(max_lease_ms) = behind.iter().map(|row| row.lease_ms).max() else { return replicas };
            let lease = Duration::from_millis(u64::try_from(max_lease_ms).unwrap_or(0));
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

    /// Reads the rows whenever a Revoke waits for them. Never returns.
    pub(crate) async fn read(&self) {
        // The notification of a waiting Revoke may have been consumed by a reader that has ended since.
        if self.reads.receiver_count() > 0 {
            self.read_requested.notify_one();
        }
        loop {
            self.read_requested.notified().await;
            loop {
                let number = self.reads_started.fetch_add(1, Ordering::SeqCst) + 1;
                match self.store.replicas().await {
                    Ok(rows) => {
                        self.reads.send_replace(ReplicasRead { number, rows: Arc::new(rows) });
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
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::runtime::Handle;

    use super::*;
    use crate::store::sqlite::{Sqlite, SqliteOptions};

    /// The first reader takes the notification, and ends before it has read anything.
    #[tokio::test]
    async fn a_revoke_that_waits_is_answered_by_the_reader_that_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("keyward.db").display());
        let store = Sqlite::open(SqliteOptions::new(url, Handle::current())).await.unwrap();
        store.migrate().await.unwrap();
        let waits = RevocationWait::new(store);
        let mut revoke = Box::pin(waits.wait(1));
        assert_eq!((&mut revoke).now_or_never(), None);
        assert_eq!(waits.read().now_or_never(), None);
        tokio::select! {
            replicas = revoke => assert_eq!(replicas, 0),
            () = waits.read() => unreachable!("it reads for ever"),
            () = sleep(Duration::from_secs(30)) => panic!("no reader answers the Revoke"),
        }
    }
}
