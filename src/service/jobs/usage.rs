//! Flushes the uses of keys, which Verify counts in memory.

use super::Jobs;
use crate::replica::usage::TakenUsage;

impl Jobs {
    /// Schedules all uses until now for a flush. Returns how many keys are scheduled.
    pub fn schedule_usage(&self) -> usize {
        self.replica.usage.schedule()
    }

    /// Whether other replicas share the database, so that large writes would delay their statements.
    pub fn has_peers(&self) -> bool {
        self.replica.has_peers()
    }

    /// Writes the uses of at most `batch` keys; returns how many keys are left to try. What cannot be written is kept for
    /// the next flush.
    pub async fn flush_usage(&self, batch: usize) -> usize {
        let (taken, left) = self.replica.usage.take(batch);
        if taken.is_empty() {
            return left;
        }
        let usage = taken.iter().map(TakenUsage::usage).collect();
        if let Err(error) = self.store.record_usage(usage).await {
            tracing::warn!(%error, keys = taken.len(), "usage flush failed, will retry");
            self.replica.usage.restore(taken);
            return 0;
        }
        left
    }
}
