//! Uses of keys, on their way to the store: marked in memory, written about every second, never on Verify's path.
//!
//! They are written in small pieces at a steady pace. All at once, a hundred thousand keys in use would take most of a
//! second of the database's time, every second, away from the statements that somebody waits for.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::cached_key::CachedKey;
use crate::{domain::clock::Micros, store::Usage};

/// Entries that wait in either queue, at most. Each is kept alive, also when the cache has dropped it and holds the key
/// anew: while nothing can be written, that must not grow for ever.
const MOST: usize = if cfg!(test) { 1_000 } else { 1 << 20 };

/// Entries with uses that are not written down.
#[derive(Default)]
pub struct UsageLog {
    /// Uses that there was no room for.
    dropped: AtomicU64,
    /// Used since the last [`Self::gather`].
    queued: Mutex<Vec<Arc<CachedKey>>>,
    /// Next to be written. An entry is queued again only once it was taken from here, so each is here once.
    due: Mutex<VecDeque<Arc<CachedKey>>>,
}

impl UsageLog {
    /// Counts a use. The entry is kept until it is written, also when the cache drops it.
    pub fn record(&self, entry: &Arc<CachedKey>, now: Micros) {
        if entry.uses.record(now) {
            self.queue(entry);
        }
    }

    fn queue(&self, entry: &Arc<CachedKey>) {
        let mut queued = self.queued.lock();
        if queued.len() < MOST {
            queued.push(Arc::clone(entry));
        } else {
            drop(queued);
            let (_, count) = entry.uses.take();
            self.dropped.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Uses that are not written down at all, since too many waited for that.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Makes everything due that was used until now; says how many entries are due. How often this is called bounds how
    /// often one key is written.
    pub fn gather(&self) -> usize {
        let waiting = self.due.lock().len();
        if waiting >= MOST {
            return waiting;
        }
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
    pub fn take(&self, most: usize) -> (Vec<TakenUsage>, usize) {
        let (entries, left) = {
            let mut due = self.due.lock();
            let most = most.min(due.len());
            (due.drain(..most).collect::<Vec<_>>(), due.len())
        };
        let taken = entries.into_iter().map(|entry| {
            let (last_used_at, count) = entry.uses.take();
            TakenUsage { entry, last_used_at, count }
        });
        (taken.filter(|taken| taken.count > 0).collect(), left)
    }

    /// Takes uses back that could not be written down.
    pub fn restore(&self, taken: Vec<TakenUsage>) {
        for TakenUsage { entry, count, .. } in taken {
            if entry.uses.restore(count) {
                self.queue(&entry);
            }
        }
    }
}

/// Uses on their way to the store.
pub struct TakenUsage {
    entry: Arc<CachedKey>,
    last_used_at: Micros,
    count: i64,
}

impl TakenUsage {
    /// As the store takes it.
    pub fn usage(&self) -> Usage {
        Usage { id: self.entry.id, last_used_at: self.last_used_at, count: self.count }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{domain::key::Binding, replica::cached_key::tests::facts};

    fn entry() -> Arc<CachedKey> {
        Arc::new(CachedKey::new(&facts(Binding::default(), String::new(), Vec::new(), BTreeMap::default()), None))
    }

    fn counts(taken: &[TakenUsage]) -> Vec<i64> {
        taken.iter().map(|taken| taken.count).collect()
    }

    #[test]
    fn a_key_is_due_once_however_often_it_is_used_and_no_use_is_lost() {
        let (log, first, second) = (UsageLog::default(), entry(), entry());
        log.record(&first, 1);
        assert!(log.take(9).0.is_empty(), "not due before it is gathered");
        log.record(&first, 2);
        log.record(&second, 3);
        assert_eq!(log.gather(), 2);
        // Used again while it waits: counted with what is taken, and not queued a second time.
        log.record(&first, 4);
        let (taken, left) = log.take(1);
        assert_eq!((counts(&taken), taken[0].usage().last_used_at, left), (vec![3], 4, 1));
        log.record(&first, 5);
        assert_eq!(log.gather(), 2, "the second one, and the first one's new use");
        assert_eq!(counts(&log.take(9).0), [1, 1]);
    }

    #[test]
    fn memory_is_bounded_while_nothing_can_be_written() {
        let log = UsageLog::default();
        let keys: Vec<_> = (0..3 * MOST).map(|_| entry()).collect();
        for round in 1..=3 {
            for key in &keys {
                log.record(key, round);
            }
            log.gather();
        }
        let kept = log.queued.lock().len() + log.due.lock().len();
        assert_eq!(kept, 2 * MOST);
        // Those in the queues are counted on; the others are lost each time.
        assert_eq!(log.dropped(), (2 * MOST + MOST + MOST) as u64);
        while log.take(100).1 > 0 {}
        log.gather();
        while log.take(100).1 > 0 {}
        log.record(&keys[3 * MOST - 1], 9);
        assert_eq!(log.gather(), 1, "there is room again, also for one that was turned away");
    }

    #[test]
    fn what_could_not_be_written_is_due_again_with_the_next_round() {
        let (log, key) = (UsageLog::default(), entry());
        log.record(&key, 1);
        log.gather();
        let (taken, _) = log.take(9);
        log.record(&key, 2);
        log.restore(taken);
        assert_eq!(log.gather(), 1);
        let (taken, left) = log.take(9);
        assert_eq!((counts(&taken), taken[0].usage().last_used_at, left), (vec![2], 2, 0));
    }
}
