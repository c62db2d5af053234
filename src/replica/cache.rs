//! The cache of keys, and the fence that keeps stale keys out of it.
//!
//! A look-up that was sent before a change must not fill the cache after the change was applied. The look-up therefore
//! takes [`KeyCache::current_seq`] before its statement is sent and passes it to [`KeyCache::fill`] afterwards. `fill`
//! and [`KeyCache::invalidate`] exclude each other: either the fill comes first and the invalidation removes it, or the
//! fill sees that its key has changed and drops the row.
//!
//! This file uses no async runtime and no database, so that the same code runs under the shuttle scheduler in
//! `tests/shuttle_cache.rs`.

use std::{collections::VecDeque, sync::Arc};

use quick_cache::{
    Weighter,
    sync::{Cache, DefaultLifecycle},
};

use super::{cached_key::CachedKey, fault_injection};
use crate::domain::{clock::Micros, key::Digest};

#[cfg(feature = "shuttle")]
use shuttle::sync::{Mutex, atomic::AtomicU64, atomic::Ordering};
#[cfg(not(feature = "shuttle"))]
use std::sync::{Mutex, atomic::AtomicU64, atomic::Ordering};

/// Number of recent changes that are kept by digest. A look-up that is older than all of them is fenced, whatever its
/// key: the cache no longer has a record of whether its key changed.
const MAX_RECENT_CHANGES: usize = if cfg!(feature = "shuttle") { 2 } else { 4_096 };

/// A position in the sequence of applied changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangeSeq(u64);

#[derive(Debug, Clone, Copy)]
struct Weight;

impl Weighter<Digest, Arc<CachedKey>> for Weight {
    fn weight(&self, _: &Digest, entry: &Arc<CachedKey>) -> u64 {
        entry.weight()
    }
}

/// Keys by digest, bounded in bytes.
pub struct KeyCache {
    keys: Cache<Digest, Arc<CachedKey>, Weight, DigestHasher>,
    /// Sequence number of the last applied change.
    latest: AtomicU64,
    changes: Mutex<RecentChanges>,
}

/// Builds the hasher for digests. They are uniform already, so their first word serves as the hash.
pub type DigestHasher = std::hash::BuildHasherDefault<FirstWord>;

/// Uses the first word of a digest as its hash.
#[derive(Debug, Default, Clone, Copy)]
pub struct FirstWord(u64);

impl std::hash::Hasher for FirstWord {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // `Digest` only calls `write_u64`; other input still hashes, though poorly.
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

#[derive(Default)]
struct RecentChanges {
    /// The last changes by sequence number, oldest first, without gaps.
    recent: VecDeque<(u64, Digest)>,
    /// Sequence number of the last clear. A look-up from before it is fenced, whatever its key.
    cleared: u64,
}

impl RecentChanges {
    fn changed_since(&self, seq: ChangeSeq, digest: &Digest) -> bool {
        seq.0 < self.cleared
            || self.recent.front().is_some_and(|(oldest, _)| seq.0 + 1 < *oldest)
            || self.recent.iter().rev().take_while(|(number, _)| *number > seq.0).any(|(_, changed)| changed == digest)
    }
}

impl KeyCache {
    /// An empty cache of at most `bytes`.
    pub fn new(bytes: u64) -> Self {
        // Sized for short entries; the cache grows its tables as it fills.
        let expected = usize::try_from(bytes / 300).unwrap_or(usize::MAX).clamp(64, 1 << 24);
        Self {
            keys: Cache::with(expected, bytes, Weight, DigestHasher::default(), DefaultLifecycle::default()),
            latest: AtomicU64::new(0),
            changes: Mutex::default(),
        }
    }

    /// The cached key of a digest. Valid only under the lease, which the caller must have checked before.
    pub fn get(&self, digest: &Digest) -> Option<Arc<CachedKey>> {
        self.keys.get(digest)
    }

    /// The last use of a cached key since it was cached. Needs no lease: a past use does not become false.
    pub(crate) fn last_use(&self, digest: &Digest) -> Option<Micros> {
        self.keys.peek(digest)?.uses.last()
    }

    /// The current position in the sequence of changes. Take it before sending a look-up.
    pub fn current_seq(&self) -> ChangeSeq {
        ChangeSeq(self.latest.load(Ordering::Acquire))
    }

    /// Whether no change to this key has been applied since `seq`.
    pub(crate) fn unchanged_since(&self, seq: ChangeSeq, digest: &Digest) -> bool {
        self.latest.load(Ordering::Acquire) == seq.0 || !self.lock().changed_since(seq, digest)
    }

    /// Caches the rows of a statement that was sent after `seq`, except for keys that have changed since.
    pub fn fill<'a>(&self, seq: ChangeSeq, found: impl Iterator<Item = (&'a Digest, &'a Arc<CachedKey>)>) {
        let changes = self.lock();
        for (digest, entry) in found {
            if fault_injection::disabled("fill_fence") || !changes.changed_since(seq, digest) {
                self.keys.insert(*digest, Arc::clone(entry));
            }
        }
    }

    /// Applies a change to one key: removes it, and fences the look-ups of it that are in flight.
    pub fn invalidate(&self, digest: &Digest) {
        let mut changes = self.lock();
        let number = self.latest.load(Ordering::Relaxed) + 1;
        if changes.recent.len() == MAX_RECENT_CHANGES {
            changes.recent.pop_front();
        }
        changes.recent.push_back((number, *digest));
        // Publish the number before the removal: if a reader finds the number unchanged, its entry has not been removed
        // either.
        self.latest.store(number, Ordering::Release);
        self.keys.remove(digest);
    }

    /// Removes every key, and fences every look-up in flight.
    pub fn clear(&self) {
        let mut changes = self.lock();
        let number = self.latest.load(Ordering::Relaxed) + 1;
        changes.recent.clear();
        changes.cleared = number;
        self.latest.store(number, Ordering::Release);
        self.keys.clear();
    }

    /// Number of cached keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes used by cached keys.
    pub fn bytes(&self) -> u64 {
        self.keys.weight()
    }

    fn lock(&self) -> impl std::ops::DerefMut<Target = RecentChanges> + '_ {
        // Ignoring poison is safe: every step of an update leaves the list consistent.
        self.changes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
