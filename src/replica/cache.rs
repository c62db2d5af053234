//! The keys that memory holds, and the fence that keeps a stale one out.
//!
//! A look-up that was sent before a change was applied must not land after it: [`KeyCache::current_seq`] before the statement
//! is sent, [`KeyCache::fill`] with that number afterwards. Filling and applying exclude each other, so a fill either
//! lands before the change, which removes it, or sees the change and does not land.
//!
//! Nothing here knows of an executor or a database: the same code runs on a controlled scheduler in a test.

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

/// Changes that are remembered by digest. A look-up that more than so many changes overtook counts as fenced.
const REMEMBERED: usize = if cfg!(feature = "shuttle") { 2 } else { 4_096 };

/// A moment in the order of applied changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangeSeq(u64);

#[derive(Debug, Clone, Copy)]
struct Weight;

impl Weighter<Digest, Arc<CachedKey>> for Weight {
    fn weight(&self, _: &Digest, entry: &Arc<CachedKey>) -> u64 {
        entry.weight()
    }
}

/// The keys that memory holds, bounded in bytes.
pub struct KeyCache {
    keys: Cache<Digest, Arc<CachedKey>, Weight, DigestHasher>,
    /// Number of the latest change that was applied.
    latest: AtomicU64,
    applied: Mutex<Applied>,
}

/// Hashes digests, which need none.
pub type DigestHasher = std::hash::BuildHasherDefault<FirstWord>;

/// Takes the first word of a digest as its hash.
#[derive(Debug, Default, Clone, Copy)]
pub struct FirstWord(u64);

impl std::hash::Hasher for FirstWord {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Digests only write a word; anything else still hashes, if poorly.
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

#[derive(Default)]
struct Applied {
    /// The last changes, oldest first, without gaps in their numbers.
    recent: VecDeque<(u64, Digest)>,
    /// A look-up marked before this number is fenced whatever its digest.
    cleared: u64,
}

impl Applied {
    fn changed_since(&self, seq: ChangeSeq, digest: &Digest) -> bool {
        seq.0 < self.cleared
            || self.recent.front().is_some_and(|(oldest, _)| seq.0 + 1 < *oldest)
            || self.recent.iter().rev().take_while(|(number, _)| *number > seq.0).any(|(_, changed)| changed == digest)
    }
}

impl KeyCache {
    /// An empty cache of at most `bytes`.
    pub fn new(bytes: u64) -> Self {
        // Room for short entries; the cache grows its tables as it fills.
        let expected = usize::try_from(bytes / 300).unwrap_or(usize::MAX).clamp(64, 1 << 24);
        Self {
            keys: Cache::with(expected, bytes, Weight, DigestHasher::default(), DefaultLifecycle::default()),
            latest: AtomicU64::new(0),
            applied: Mutex::default(),
        }
    }

    /// A key, if memory holds it. Only good while the lease holds, which must be checked before.
    pub fn get(&self, digest: &Digest) -> Option<Arc<CachedKey>> {
        self.keys.get(digest)
    }

    /// The last use of a key that memory holds, if it was used since memory holds it. Needs no lease: a use stays true.
    pub fn last_use(&self, digest: &Digest) -> Option<Micros> {
        self.keys.peek(digest)?.uses.last()
    }

    /// Now, in the order of applied changes: to be taken before a statement is sent.
    pub fn current_seq(&self) -> ChangeSeq {
        ChangeSeq(self.latest.load(Ordering::Acquire))
    }

    /// Whether no change to this key was applied since `seq`.
    pub fn unchanged_since(&self, seq: ChangeSeq, digest: &Digest) -> bool {
        self.latest.load(Ordering::Acquire) == seq.0 || !self.lock().changed_since(seq, digest)
    }

    /// Keeps what a statement sent after `seq` found; not the keys that a change overtook.
    pub fn fill<'a>(&self, seq: ChangeSeq, found: impl Iterator<Item = (&'a Digest, &'a Arc<CachedKey>)>) {
        let applied = self.lock();
        for (digest, entry) in found {
            if fault_injection::disabled("fill_fence") || !applied.changed_since(seq, digest) {
                self.keys.insert(*digest, Arc::clone(entry));
            }
        }
    }

    /// Applies a change to one key: from now on memory does not hold what it held before.
    pub fn invalidate(&self, digest: &Digest) {
        let mut applied = self.lock();
        let number = self.latest.load(Ordering::Relaxed) + 1;
        if applied.recent.len() == REMEMBERED {
            applied.recent.pop_front();
        }
        applied.recent.push_back((number, *digest));
        // First the number, then the removal: whoever finds the key gone or unchanged has it right.
        self.latest.store(number, Ordering::Release);
        self.keys.remove(digest);
    }

    /// Forgets everything, and fences every look-up in flight.
    pub fn clear(&self) {
        let mut applied = self.lock();
        let number = self.latest.load(Ordering::Relaxed) + 1;
        applied.recent.clear();
        applied.cleared = number;
        self.latest.store(number, Ordering::Release);
        self.keys.clear();
    }

    /// Keys held.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.keys.weight()
    }

    fn lock(&self) -> impl std::ops::DerefMut<Target = Applied> + '_ {
        // A panic while it was held leaves a list that is still right: every step keeps it so.
        self.applied.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
