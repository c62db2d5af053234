//! Uses of keys: recorded in memory by Verify, and flushed to the store about once a second by a worker.
//!
//! They are flushed in small batches, evenly over the second. Writing the uses of a hundred thousand keys at once would
//! occupy the database for most of each second, and delay the statements that callers wait for.

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

/// Maximum length of each queue. A queued entry stays alive even after the cache has evicted it, so without a bound
/// memory would grow for as long as the flush fails.
const MAX_QUEUED: usize = if cfg!(test) { 1_000 } else { 1 << 20 };

/// Keys with uses that are not flushed yet.
#[derive(Default)]
pub struct UsageLog {
    /// Number of uses that were lost because the queue was full.
    dropped: AtomicU64,
    /// Keys used since the last [`Self::schedule`].
    queued: Mutex<Vec<Arc<CachedKey>>>,
    /// Keys to be flushed next. An entry is queued again only after it was taken from here, so each is here once.
    due: Mutex<VecDeque<Arc<CachedKey>>>,
}

impl UsageLog {
    /// Records a use. The entry is kept until it is flushed, even if the cache evicts it.
    pub fn record(&self, entry: &Arc<CachedKey>, now: Micros) {
        if entry.uses.record(now) {
            self.queue(entry);
        }
    }

    /// Records uses that an attached client reports.
    pub(crate) fn record_many(&self, entry: &Arc<CachedKey>, last: Micros, count: u32) {
        if entry.uses.record_many(last, count) {
            self.queue(entry);
        }
    }

    fn queue(&self, entry: &Arc<CachedKey>) {
        let mut queued = self.queued.lock();
        if queued.len() < MAX_QUEUED {
            queued.push(Arc::clone(entry));
        } else {
            drop(queued);
            let (_, count) = entry.uses.take();
            self.dropped.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Number of uses that were lost because too many keys waited for a flush.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Schedules every key that was used until now for flushing; returns how many keys are scheduled. One key is flushed
    /// at most once per call of this.
    pub fn schedule(&self) -> usize {
        let waiting = self.due.lock().len();
        if waiting >= MAX_QUEUED {
            return waiting;
        }
        let queued = {
            let mut queued = self.queued.lock();
            // Allocate for as many keys as this time, since growing the queue would happen on Verify's path.
            let capacity = queued.len();
            std::mem::replace(&mut *queued, Vec::with_capacity(capacity))
        };
        let mut due = self.due.lock();
        due.extend(queued);
        due.len()
    }

    /// Takes the uses of up to `max` scheduled keys, oldest first; also returns how many keys are left.
    pub fn take(&self, max: usize) -> (Vec<TakenUsage>, usize) {
        let (entries, left) = {
            let mut due = self.due.lock();
            let max = max.min(due.len());
            (due.drain(..max).collect::<Vec<_>>(), due.len())
        };
        let taken = entries.into_iter().map(|entry| {
            let (last_used_at, count) = entry.uses.take();
            TakenUsage { entry, last_used_at, count }
        });
        (taken.filter(|taken| taken.count > 0).collect(), left)
    }

    /// Puts back uses whose flush failed.
    pub(crate) fn restore(&self, taken: Vec<TakenUsage>) {
        for TakenUsage { entry, count, .. } in taken {
            if entry.uses.restore(count) {
                self.queue(&entry);
            }
        }
    }
}

/// Uses of one key that were taken for flushing.
pub struct TakenUsage {
    entry: Arc<CachedKey>,
    last_used_at: Micros,
    count: i64,
}

impl TakenUsage {
    /// The uses in the form that the store takes.
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
    fn a_key_is_scheduled_once_however_often_it_is_used_and_no_use_is_lost() {
        let (log, first, second) = (UsageLog::default(), entry(), entry());
        log.record(&first, 1);
        assert!(log.take(9).0.is_empty(), "not due before it is scheduled");
        log.record(&first, 2);
        log.record(&second, 3);
        assert_eq!(log.schedule(), 2);
        // A use of a scheduled key is counted with the others, and does not queue the key a second time.
        log.record(&first, 4);
        let (taken, left) = log.take(1);
        assert_eq!((counts(&taken), taken[0].usage().last_used_at, left), (vec![3], 4, 1));
        log.record(&first, 5);
        assert_eq!(log.schedule(), 2, "the second key, and the new use of the first one");
        assert_eq!(counts(&log.take(9).0), [1, 1]);
    }

    #[test]
    fn memory_is_bounded_while_the_flush_fails() {
        let log = UsageLog::default();
        let keys: Vec<_> = (0..3 * MAX_QUEUED).map(|_| entry()).collect();
        for round in 1..=3 {
            for key in &keys {
                log.record(key, round);
            }
            log.schedule();
        }
        let kept = log.queued.lock().len() + log.due.lock().len();
        assert_eq!(kept, 2 * MAX_QUEUED);
        // Keys in the queues go on counting; the uses of all other keys are lost in each round.
        assert_eq!(log.dropped(), (2 * MAX_QUEUED + MAX_QUEUED + MAX_QUEUED) as u64);
        while log.take(100).1 > 0 {}
        log.schedule();
        while log.take(100).1 > 0 {}
        log.record(&keys[3 * MAX_QUEUED - 1], 9);
        assert_eq!(log.schedule(), 1, "the queue has room again, also for a key that was refused before");
    }

    #[test]
    fn uses_whose_flush_failed_are_taken_again_after_the_next_schedule() {
        let (log, key) = (UsageLog::default(), entry());
        log.record(&key, 1);
        log.schedule();
        let (taken, _) = log.take(9);
        log.record(&key, 2);
        log.restore(taken);
        assert_eq!(log.schedule(), 1);
        let (taken, left) = log.take(9);
        assert_eq!((counts(&taken), taken[0].usage().last_used_at, left), (vec![2], 2, 0));
    }
}
