//! The memory of one session: its keys, and until when they may answer. One task writes it; any thread reads it,
//! without a lock.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasherDefault,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering},
    },
};

use super::{clock, tag::Tag};
use crate::key_facts::KeyFacts;

/// A digest, by which the replica names a key.
pub(super) type Digest = [u8; 32];

/// Bytes that maps, allocator and the origin of its facts add to an entry.
const OVERHEAD: usize = 512;

/// For which keyspaces the holder of a key may call Verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum VerifyRights {
    /// Every one.
    All,
    /// These.
    Keyspaces(Vec<String>),
}

/// A key in memory.
pub(super) struct Entry {
    pub(super) facts: Arc<KeyFacts>,
    pub(super) digest: Digest,
    /// When it expires, on the clock of leases.
    pub(super) expires: i64,
    /// None: it may not call Verify.
    rights: Option<VerifyRights>,
    /// VALID answers that were not reported yet.
    uses: AtomicU32,
    last_use: AtomicI64,
    /// The key was used since the last eviction.
    recent: AtomicBool,
}

impl Entry {
    pub(super) fn new(facts: Arc<KeyFacts>, digest: Digest, expires: i64) -> Self {
        Self {
            facts,
            digest,
            expires,
            rights: None,
            uses: AtomicU32::new(0),
            last_use: AtomicI64::new(0),
            recent: AtomicBool::new(false),
        }
    }

    /// The same key with these rights.
    pub(super) fn with_rights(self, rights: Option<VerifyRights>) -> Self {
        Self { rights, ..self }
    }

    pub(super) fn rights(&self) -> Option<&VerifyRights> {
        self.rights.as_ref()
    }

    /// Counts a VALID answer.
    pub(super) fn used(&self, now: i64) {
        self.uses.fetch_add(1, Ordering::Relaxed);
        self.last_use.store(now, Ordering::Relaxed);
        if !self.recent.load(Ordering::Relaxed) {
            self.recent.store(true, Ordering::Relaxed);
        }
    }

    fn bytes(&self) -> usize {
        let rights = match &self.rights {
            Some(VerifyRights::Keyspaces(names)) => names.iter().map(|name| name.len() + size_of::<String>()).sum(),
            Some(VerifyRights::All) | None => 0,
        };
        self.facts.bytes() + rights + size_of::<Self>() + OVERHEAD
    }
}

/// The hash of a tag is the tag: it is uniform already.
#[derive(Default)]
pub(super) struct TagHasher(u64);

impl std::hash::Hasher for TagHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u128(&mut self, tag: u128) {
        self.0 = tag.to_le_bytes().first_chunk().map_or(0, |low| u64::from_le_bytes(*low));
    }
}

/// The part that any thread reads.
pub(super) struct Memory {
    keys: papaya::HashMap<Tag, Arc<Entry>, BuildHasherDefault<TagHasher>>,
    /// Until when the keys may answer. It ends for good with [`Self::end`].
    deadline: AtomicI64,
    ended: AtomicBool,
    /// The process that opened the session. A fork of it must not answer from this memory.
    process: u32,
    /// The session was used since its last renewal.
    touched: AtomicBool,
    bytes: AtomicUsize,
    /// See [`super::LocalMemory::gateway_rules`].
    gateway_rules: OnceLock<String>,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self {
            keys: papaya::HashMap::builder().hasher(BuildHasherDefault::default()).build(),
            deadline: AtomicI64::new(i64::MIN),
            ended: AtomicBool::new(false),
            process: std::process::id(),
            touched: AtomicBool::new(true),
            bytes: AtomicUsize::new(0),
            gateway_rules: OnceLock::new(),
        }
    }

    /// Stores the fingerprint of the replica's rules. Later calls have no effect.
    pub(super) fn set_gateway_rules(&self, rules: String) {
        let _ = self.gateway_rules.set(rules);
    }

    pub(super) fn gateway_rules(&self) -> &str {
        self.gateway_rules.get().map_or("", String::as_str)
    }

    /// The current time, if the keys may answer now.
    pub(super) fn live(&self) -> Option<i64> {
        let now = clock::boottime()?;
        (now < self.deadline.load(Ordering::SeqCst) && self.process == std::process::id()).then_some(now)
    }

    /// Until when the keys may answer.
    pub(super) fn deadline(&self) -> i64 {
        self.deadline.load(Ordering::SeqCst)
    }

    /// When the lease of a session that is over ends: at the deadline, or `now` if memory was ended before it.
    pub(super) fn lease_end(&self, now: i64) -> i64 {
        if self.ended.load(Ordering::SeqCst) { now } else { self.deadline() }
    }

    /// How long the keys may still answer without another grant; zero if they may not answer now.
    pub(super) fn lease(&self) -> std::time::Duration {
        let left = self.live().map_or(0, |now| self.deadline.load(Ordering::SeqCst).saturating_sub(now));
        std::time::Duration::from_micros(u64::try_from(left).unwrap_or(0))
    }

    /// The key of a tag. Call this after [`Self::live`]. Records that the session is used, so that it is renewed.
    pub(super) fn get(&self, tag: Tag, now: i64) -> Option<Arc<Entry>> {
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
        self.keys.pin().get(&tag).filter(|entry| now < entry.expires).cloned()
    }

    /// Whether the session was used since the previous call of this function.
    pub(super) fn take_touched(&self) -> bool {
        self.touched.swap(false, Ordering::Relaxed)
    }

    /// Lets the keys answer until `deadline`, if that is later than now.
    pub(super) fn extend(&self, deadline: i64) {
        if !self.ended.load(Ordering::SeqCst) {
            self.deadline.fetch_max(deadline, Ordering::SeqCst);
        }
    }

    /// Ends it for good: first the deadline, then the keys.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.deadline.store(i64::MIN, Ordering::SeqCst);
        self.keys.pin().clear();
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// Takes the uses that were not reported yet.
    pub(super) fn take_uses(&self) -> Vec<Used> {
        let pinned = self.keys.pin();
        let used = pinned.values().filter_map(|entry| {
            if entry.uses.load(Ordering::Relaxed) == 0 {
                return None;
            }
            let count = entry.uses.swap(0, Ordering::Relaxed);
            Some(Used { digest: entry.digest, count, last: entry.last_use.load(Ordering::Relaxed) })
        });
        used.collect()
    }

    pub(super) fn len(&self) -> usize {
        self.keys.pin().len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// The part that only the session's task has.
pub(super) struct Writer {
    pub(super) memory: Arc<Memory>,
    tags: HashMap<Digest, Tag>,
    /// Tags in the order of insertion. A tag may remain after its key was removed.
    order: VecDeque<Tag>,
    max_bytes: usize,
}

/// Uses of one key since the last report.
pub(super) struct Used {
    pub(super) digest: Digest,
    pub(super) count: u32,
    pub(super) last: i64,
}

impl Writer {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { memory: Arc::new(Memory::new()), tags: HashMap::new(), order: VecDeque::new(), max_bytes }
    }

    /// Inserts a key. If there is no room, keys that were not used recently are evicted.
    pub(super) fn insert(&mut self, tag: Tag, entry: Entry) {
        if self.memory.ended.load(Ordering::SeqCst) || entry.bytes() > self.max_bytes {
            return;
        }
        let digest = entry.digest;
        self.memory.bytes.fetch_add(entry.bytes(), Ordering::Relaxed);
        if let Some(replaced) = self.memory.keys.pin().insert(tag, Arc::new(entry)) {
            self.memory.bytes.fetch_sub(replaced.bytes(), Ordering::Relaxed);
        } else {
            self.order.push_back(tag);
        }
        self.tags.insert(digest, tag);
        while self.memory.bytes() > self.max_bytes {
            let Some(oldest) = self.order.pop_front() else { break };
            let pinned = self.memory.keys.pin();
            let Some(entry) = pinned.get(&oldest) else { continue };
            if entry.recent.swap(false, Ordering::Relaxed) {
                self.order.push_back(oldest);
            } else {
                self.tags.remove(&entry.digest);
                self.memory.bytes.fetch_sub(entry.bytes(), Ordering::Relaxed);
                pinned.remove(&oldest);
            }
        }
    }

    /// The key of a tag.
    pub(super) fn get(&self, tag: Tag) -> Option<Arc<Entry>> {
        self.memory.keys.pin().get(&tag).cloned()
    }

    /// Removes the key with this digest; its tag, if it was there.
    pub(super) fn remove(&mut self, digest: &Digest) -> Option<Tag> {
        let tag = self.tags.remove(digest)?;
        if let Some(entry) = self.memory.keys.pin().remove(&tag) {
            self.memory.bytes.fetch_sub(entry.bytes(), Ordering::Relaxed);
        }
        // Drop the tags of removed keys: otherwise the queue grows with each insertion and removal.
        if self.order.len() > 2 * self.tags.len() + 64 {
            let pinned = self.memory.keys.pin();
            self.order.retain(|tag| pinned.contains_key(tag));
        }
        Some(tag)
    }

    /// Removes every key.
    pub(super) fn clear(&mut self) {
        self.memory.keys.pin().clear();
        self.memory.bytes.store(0, Ordering::Relaxed);
        self.tags.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tag::Tagger, *};
    use crate::key_facts::tests::facts;

    const NEVER: i64 = i64::MAX;

    fn digest(n: u16) -> Digest {
        let mut digest = [0; 32];
        digest[..2].copy_from_slice(&n.to_be_bytes());
        digest
    }

    fn entry(n: u16, expires: i64) -> Entry {
        Entry::new(facts("key_1"), digest(n), expires)
    }

    #[test]
    fn a_memory_answers_only_until_its_deadline_and_never_after_its_end() {
        let writer = Writer::new(1 << 20);
        let memory = &writer.memory;
        assert_eq!(memory.live(), None, "without a grant");
        let now = clock::boottime().unwrap();
        memory.extend(now - 1);
        assert_eq!(memory.live(), None, "a grant that is over");
        memory.extend(now + 60_000_000);
        assert!(memory.live().is_some());
        memory.extend(now + 1_000);
        assert!(memory.deadline.load(Ordering::SeqCst) > now + 1_000_000, "a shorter grant shortens nothing");
        memory.end();
        memory.extend(now + 60_000_000);
        assert_eq!(memory.live(), None);
    }

    #[test]
    fn a_memory_of_another_process_answers_nothing() {
        let memory = Memory { process: std::process::id().wrapping_add(1), ..Memory::new() };
        memory.extend(i64::MAX);
        assert_eq!(memory.live(), None);
    }

    #[test]
    fn a_key_is_there_until_it_expires_is_removed_or_everything_is() {
        let tagger = Tagger::new().unwrap();
        let mut writer = Writer::new(1 << 20);
        for n in 0..3 {
            writer.insert(tagger.tag(&n.to_string()), entry(n, if n == 0 { 100 } else { NEVER }));
        }
        let memory = Arc::clone(&writer.memory);
        let has = |n: u16, now| memory.get(tagger.tag(&n.to_string()), now).is_some();
        assert!(has(0, 99) && !has(0, 100) && has(1, 100) && has(2, 100));
        writer.remove(&digest(1));
        assert!(!has(1, 0) && has(2, 0));
        writer.remove(&digest(9));
        writer.clear();
        assert!(!has(2, 0));
        assert_eq!((memory.len(), memory.bytes()), (0, 0));
    }

    #[test]
    fn memory_is_bounded_and_keys_that_are_used_stay() {
        let tagger = Tagger::new().unwrap();
        let one = entry(0, NEVER).bytes();
        let mut writer = Writer::new(10 * one);
        let tag = |n: u16| tagger.tag(&n.to_string());
        for n in 0..1_000 {
            writer.insert(tag(n), entry(n, NEVER));
            if let Some(entry) = writer.memory.get(tag(0), 0) {
                entry.used(1);
            }
        }
        assert!(writer.memory.bytes() <= 10 * one && writer.memory.len() == 10, "{}", writer.memory.len());
        assert_eq!((writer.tags.len(), writer.order.len()), (10, 10));
        assert!(writer.memory.get(tag(0), 0).is_some(), "it was used all the time");
        for n in 0..1_000 {
            writer.remove(&digest(n));
        }
        assert_eq!((writer.memory.bytes(), writer.tags.len()), (0, 0));
        assert!(writer.order.len() <= 64);
    }

    #[test]
    fn uses_are_taken_once() {
        let tagger = Tagger::new().unwrap();
        let mut writer = Writer::new(1 << 20);
        writer.insert(tagger.tag("a"), entry(1, NEVER));
        writer.insert(tagger.tag("b"), entry(2, NEVER));
        for now in [5, 7] {
            writer.memory.get(tagger.tag("a"), 0).unwrap().used(now);
        }
        let used = writer.memory.take_uses();
        assert_eq!(
            used.iter().map(|used| (used.digest, used.count, used.last)).collect::<Vec<_>>(),
            [(digest(1), 2, 7)]
        );
        assert!(writer.memory.take_uses().is_empty());
    }
}
