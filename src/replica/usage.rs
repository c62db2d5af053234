//! Uses of keys, on their way to the store: marked in memory, written about every second, never on Verify's path.
//!
//! They are written in small pieces at a steady pace. All at once, a hundred thousand keys in use would take most of a
//! second of the database's time, every second, away from the statements that somebody waits for.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;

use super::entry::Entry;
use crate::{domain::clock::Micros, store::Usage};

/// Entries with uses that are not written down.
#[derive(Default)]
pub struct UsageLog {
    /// Used since the last [`Self::gather`].
    queued: Mutex<Vec<Arc<Entry>>>,
    /// Next to be written. An entry is queued again only once it was taken from here, so each is here once.
    due: Mutex<VecDeque<Arc<Entry>>>,
}

impl UsageLog {
    /// Counts a use. The entry is kept until it is written, also when the cache drops it.
    pub fn mark(&self, entry: &Arc<Entry>, now: Micros) {
        if entry.uses.mark(now) {
            self.queued.lock().push(Arc::clone(entry));
        }
    }

    /// Makes everything due that was used until now; says how many entries are due. How often this is called bounds how
    /// often one key is written.
    pub fn gather(&self) -> usize {
        let queued = {
            let mut queued = self.queued.lock();
            // As many are likely next time; growing step by step would be done on Verify's path.
            let capacity = queued.len();
            std::mem::replace(&mut *queued, Vec::with_capacity(capacity))
        };
        let mut due = self.due.lock();
        due.extend(queued);
        due.len()
    }

    /// Takes the uses of up to `most` entries that are due, those first that waited longest; says how many are left.
    pub fn take(&self, most: usize) -> (Vec<Taken>, usize) {
        let (entries, left) = {
            let mut due = self.due.lock();
            let most = most.min(due.len());
            (due.drain(..most).collect::<Vec<_>>(), due.len())
        };
        let taken = entries.into_iter().map(|entry| {
            let (last_used_at, count) = entry.uses.take();
            Taken { entry, last_used_at, count }
        });
        (taken.filter(|taken| taken.count > 0).collect(), left)
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
