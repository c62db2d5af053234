//! State of many subjects, spread over locks.

use hashbrown::HashMap;
use parking_lot::{Mutex, MutexGuard};

use super::Subject;
use crate::domain::clock::{Clock, Micros};

/// Locks that the subjects are spread over.
const SHARDS: usize = 64;

/// The subjects of one lock.
pub type Shard<V> = HashMap<Subject, V>;

/// A value for each subject.
pub struct Shards<V> {
    shards: Vec<Mutex<Shard<V>>>,
    hasher: hashbrown::DefaultHashBuilder,
}

impl<V> Default for Shards<V> {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: hashbrown::DefaultHashBuilder::default(),
        }
    }
}

impl<V> Shards<V> {
    /// The subjects beside this one, locked.
    pub fn lock(&self, subject: Subject) -> MutexGuard<'_, Shard<V>> {
        use std::hash::BuildHasher as _;
        let place = usize::try_from(self.hasher.hash_one(subject) >> 32).unwrap_or(0) % SHARDS;
        self.shards[place].lock()
    }

    /// Forgets what does not stay at the time of its turn: a shard at a time, each under its own lock.
    pub fn sweep(&self, clock: &dyn Clock, stays: impl Fn(&V, Micros) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let now = clock.monotonic();
            shard.retain(|_, value| stays(value, now));
            if shard.capacity() > 4 * shard.len() {
                shard.shrink_to_fit();
            }
        }
    }

    /// Subjects held.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}
