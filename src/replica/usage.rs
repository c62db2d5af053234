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
    pub fn take(&self) -> Vec<Taken> {
        let queued = std::mem::take(&mut *self.queued.lock());
        let taken = queued.into_iter().map(|entry| {
            let (last_used_at, count) = entry.uses.take();
            Taken { entry, last_used_at, count }
        });
        taken.filter(|taken| taken.count > 0).collect()
    }

    /// Takes uses back that could not be written down.
    pub fn give_back(&self, taken: Vec<Taken>) {
        for Taken { entry, count, .. } in taken {
            if entry.uses.give_back(count) {
                self.queued.lock().push(entry);
            }
        }
    }
}

/// Uses on their way to the store.
pub struct Taken {
    entry: Arc<Entry>,
    last_used_at: Micros,
    count: i64,
}

impl Taken {
    /// As the store takes it.
    pub fn usage(&self) -> Usage {
        Usage { id: self.entry.id, last_used_at: self.last_used_at, count: self.count }
    }
}
