//! State of many subjects, spread over locks.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};
use parking_lot::{Mutex, MutexGuard};

use super::Subject;
use crate::domain::clock::Micros;

/// Locks that the subjects are spread over.
const SHARDS: usize = 64;

type Table<V> = HashTable<(Subject, V)>;

/// A value for each subject.
pub struct ShardedMap<V> {
    shards: Vec<Mutex<Table<V>>>,
    hasher: DefaultHashBuilder,
}

/// A subject's place, locked together with those beside it.
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
    /// Where a subject's value is, or will be.
    pub fn lock(&self, subject: Subject) -> LockedEntry<'_, V> {
        let hash = self.hasher.hash_one(subject);
        // Bits that the table itself makes little use of.
        let shard = usize::try_from(hash >> 32).unwrap_or(0) % SHARDS;
        LockedEntry { table: self.shards[shard].lock(), hasher: &self.hasher, hash, subject }
    }

    /// Forgets what does not stay at the time of its turn: a shard at a time, each under its own lock.
    pub fn sweep(&self, now: impl Fn() -> Micros, stays: impl Fn(&V, Micros) -> bool) {
        for shard in &self.shards {
            let mut table = shard.lock();
            let now = now();
            table.retain(|(_, value)| stays(value, now));
            if table.capacity() > 4 * table.len() {
                table.shrink_to_fit(|(subject, _)| self.hasher.hash_one(subject));
            }
        }
    }

    /// Subjects held.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

impl<V> LockedEntry<'_, V> {
    /// The subject's value, if there is one.
    pub fn get_mut(&mut self) -> Option<&mut V> {
        self.table.find_mut(self.hash, |(held, _)| *held == self.subject).map(|(_, value)| value)
    }

    /// The subject's value, made if there is none.
    pub fn or_insert_with(&mut self, make: impl FnOnce() -> V) -> &mut V {
        let (subject, hasher) = (self.subject, self.hasher);
        let entry = self.table.entry(self.hash, |(held, _)| *held == subject, |(held, _)| hasher.hash_one(held));
        &mut entry.or_insert_with(|| (subject, make())).into_mut().1
    }
}
