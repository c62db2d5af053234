//! Uses of keys, on their way to the store: marked in memory, written about every second, never on Verify's path.

use std::sync::Arc;

use parking_lot::Mutex;

use super::entry::Entry;
use crate::{domain::clock::Micros, store::Usage};

/// Entries with uses that are not written down.
#[derive(Default)]
pub struct UsageLog {
    queued: Mutex<Vec<Arc<Entry>>>,
}

impl UsageLog {
    /// Counts a use. The entry is kept until it is written, also when the cache drops it.
    pub fn mark(&self, entry: &Arc<Entry>, now: Micros) {
        if entry.uses.mark(now) {
            self.queued.lock().push(Arc::clone(entry));
        }
    }

    /// Takes every use that is not written down.
    pub fn take(&self) -> Vec<Usage> {
        let queued = std::mem::take(&mut *self.queued.lock());
        let usage = |entry: &Arc<Entry>| {
            let (last_used_at, count) = entry.uses.take();
            Usage { id: entry.id, last_used_at, count }
        };
        queued.iter().map(usage).filter(|usage| usage.count > 0).collect()
    }
}
