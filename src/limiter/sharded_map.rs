//! A map from subjects to their state, spread over many locks.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};
use parking_lot::{Mutex, MutexGuard};

use super::subject::Subject;
use crate::domain::clock::Micros;

/// Number of locks.
const SHARDS: usize = 64;

type Table<V> = HashTable<(Subject, V)>;

/// One value for each subject.
pub struct ShardedMap<V> {
    shards: Vec<Mutex<Table<V>>>,
    hasher: DefaultHashBuilder,
}

/// The entry of one subject, vacant or not. Its shard is locked until this is dropped.
pub struct LockedEntry<'a, V> {
    table: MutexGuard<'a, Table<V>>,
    hasher: &'a DefaultHashBuilder,
    hash: u64,
    subject: Subject,
}

impl<V> Default for ShardedMap<V> {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: DefaultHashBuilder::default() }
    }
}

impl<V> ShardedMap<V> {
    /// Locks the entry of a subject.
    pub fn lock(&self, subject: Subject) -> LockedEntry<'_, V> {
        let hash = self.hasher.hash_one(subject);
        // Choose the shard by bits that the table rarely uses.
        let shard = usize::try_from(hash >> 32).unwrap_or(0) % SHARDS;
        LockedEntry { table: self.shards[shard].lock(), hasher: &self.hasher, hash, subject }
    }

    /// Drops the values that `retain` rejects. Shards are swept one after the other, each under its own lock and with
    /// its own reading of `now`.
    pub fn sweep(&self, now: impl Fn() -> Micros, retain: impl Fn(&V, Micros) -> bool) {
        for shard in &self.shards {
            let mut table = shard.lock();
            let now = now();
            table.retain(|(_, value)| retain(value, now));
            if table.capacity() > 4 * table.len() {
                table.shrink_to_fit(|(subject, _)| self.hasher.hash_one(subject));
            }
        }
    }

    /// Number of subjects.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

impl<V> LockedEntry<'_, V> {
    /// The subject's value, if there is one.
    pub(crate) fn get_mut(&mut self) -> Option<&mut V> {
        self.table.find_mut(self.hash, |(stored, _)| *stored == self.subject).map(|(_, value)| value)
    }

    /// The subject's value; inserts one if there is none.
    pub fn or_insert_with(&mut self, make: impl FnOnce() -> V) -> &mut V {
        let (subject, hasher) = (self.subject, self.hasher);
        let entry =
            self.table.entry(self.hash, |(stored, _)| *stored == subject, |(stored, _)| hasher.hash_one(stored));
        &mut entry.or_insert_with(|| (subject, make())).into_mut().1
    }
}
