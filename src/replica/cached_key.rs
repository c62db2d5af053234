//! A key in the cache: only what Verify needs, packed into few bytes so that millions of keys fit in memory.

use std::{
    mem::size_of,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering},
    },
};

use crate::domain::{
    clock::Micros,
    key::{Binding, KeyFacts, KeyId},
    keyspace::{AllowedKeyspaces, KeyspaceIndex},
    rate_limit::RateLimit,
    text,
    verdict::KeyView,
};

/// Number of fields at the start of `text`: organization, instance, environment, name and scopes. Metadata follows.
const TEXTS: usize = 5;
/// Bytes that the cache and the allocator add to each entry, measured with a million entries.
const OVERHEAD: usize = 120;

/// A cached key.
#[derive(Debug)]
pub struct CachedKey {
    /// The key's id.
    pub id: KeyId,
    /// The key's keyspace; `None` if it is no longer configured.
    pub keyspace: Option<KeyspaceIndex>,
    /// Creation time.
    pub created_at: Micros,
    expires_at: Micros,
    revoked: bool,
    rare: Option<Box<Rare>>,
    /// End of each packed field in `text`.
    ends: [u16; TEXTS],
    text: Box<str>,
    /// Uses that are not in the database yet.
    pub uses: PendingUses,
}

/// Fields that few keys have. They are boxed, so that they take no memory for other keys.
#[derive(Debug, Default)]
struct Rare {
    rate_limit: Option<RateLimit>,
    allowed_keyspaces: Option<Arc<AllowedKeyspaces>>,
}

impl CachedKey {
    /// Packs a row.
    pub fn new(key: &KeyFacts, keyspace: Option<KeyspaceIndex>) -> Self {
        let Binding { organization, instance, environment } = &key.binding;
        let mut text = String::new();
        let mut ends = [0; TEXTS];
        // Validation at creation refuses spaces in scopes and NUL in metadata, so both can serve as separators.
        let scopes = key.scopes.join(" ");
        for (end, part) in ends.iter_mut().zip([organization, instance, environment, &key.name, &scopes]) {
            text.push_str(part);
            // The maximum lengths of these fields add up to far less than 64 KiB.
            *end = u16::try_from(text.len()).unwrap_or(u16::MAX);
        }
        for (key, value) in &key.metadata {
            for part in [key, value] {
                text.push_str(part);
                text.push('\0');
            }
        }
        Self {
            id: key.id,
            keyspace,
            created_at: key.created_at,
            expires_at: key.expires_at.unwrap_or(Micros::MAX),
            revoked: key.revoked,
            rare: key.rate_limit.map(|limit| Box::new(Rare { rate_limit: Some(limit), allowed_keyspaces: None })),
            ends,
            text: text.into_boxed_str(),
            uses: PendingUses::default(),
        }
    }

    /// Limits the key to these keyspaces when it acts as a verifying service.
    #[must_use]
    pub(crate) fn limited_to(mut self, allowed_keyspaces: Option<Arc<AllowedKeyspaces>>) -> Self {
        if allowed_keyspaces.is_some() {
            self.rare.get_or_insert_default().allowed_keyspaces = allowed_keyspaces;
        }
        self
    }

    /// The keyspaces that the key may verify; `None` if it is not limited.
    pub(crate) fn allowed_keyspaces(&self) -> Option<&Arc<AllowedKeyspaces>> {
        self.rare.as_ref()?.allowed_keyspaces.as_ref()
    }

    /// Bytes that the entry occupies, overhead included.
    pub(crate) fn weight(&self) -> u64 {
        let rare = self.rare.as_deref().map_or(0, size_of_val);
        (size_of::<Self>() + self.text.len() + rare + OVERHEAD) as u64
    }

    fn field(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| usize::from(self.ends[before]));
        self.text.get(start..usize::from(self.ends[index])).unwrap_or_default()
    }

    /// The organization; empty if the key is not bound to one.
    pub fn organization(&self) -> &str {
        self.field(0)
    }

    /// The instance; empty if the key is not bound to one.
    pub fn instance(&self) -> &str {
        self.field(1)
    }

    /// The environment; empty if the key is not bound to one.
    pub fn environment(&self) -> &str {
        self.field(2)
    }

    /// Display name; may be empty.
    pub fn name(&self) -> &str {
        self.field(3)
    }

    /// Scopes that the key holds.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        text::parts(self.field(4), b' ').filter(|scope| !scope.is_empty())
    }

    /// The scopes that the key holds, separated by spaces.
    pub fn scope_list(&self) -> &str {
        self.field(4)
    }

    /// Metadata pairs.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = self.text.get(usize::from(self.ends[TEXTS - 1])..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (name, after) = text::cut(rest, b'\0');
            let (value, after) = text::cut(after?, b'\0');
            rest = after?;
            Some((name, value))
        })
    }

    /// Expiry time; `None` if the key does not expire.
    pub fn expire_time(&self) -> Option<Micros> {
        (self.expires_at != Micros::MAX).then_some(self.expires_at)
    }

    /// The key's own rate limit; `None` if the keyspace's limit applies.
    pub fn rate_limit(&self) -> Option<RateLimit> {
        self.rare.as_ref()?.rate_limit
    }

    /// The organization, instance and environment that the key is bound to.
    pub fn binding(&self) -> Binding {
        Binding {
            organization: self.organization().to_owned(),
            instance: self.instance().to_owned(),
            environment: self.environment().to_owned(),
        }
    }
}

impl KeyView for CachedKey {
    fn revoked(&self) -> bool {
        self.revoked
    }

    fn expires_at(&self) -> Micros {
        self.expires_at
    }

    fn bound_to(&self) -> [&str; 3] {
        [self.environment(), self.organization(), self.instance()]
    }

    fn holds(&self, scope: &str) -> bool {
        self.scopes().any(|own| own == scope)
    }
}

/// Uses of a key that are not in the database yet.
#[derive(Debug, Default)]
pub struct PendingUses {
    last: AtomicI64,
    count: AtomicU32,
    queued: AtomicBool,
}

impl PendingUses {
    /// Counts one use. Returns whether the caller must queue the entry for the next flush.
    pub fn record(&self, now: Micros) -> bool {
        self.record_many(now, 1)
    }

    /// Counts uses, the last of which was at `last`. Returns whether the caller must queue the entry for the next flush.
    pub(crate) fn record_many(&self, last: Micros, count: u32) -> bool {
        self.last.fetch_max(last, Ordering::Relaxed);
        // Sequentially consistent with `take`: either `take` sees this count, or this call sees that the entry has left
        // the queue and queues it again.
        self.count.fetch_add(count, Ordering::SeqCst);
        !self.queued.load(Ordering::SeqCst) && !self.queued.swap(true, Ordering::SeqCst)
    }

    /// The last use counted here, flushed or not.
    pub fn last(&self) -> Option<Micros> {
        Some(self.last.load(Ordering::Relaxed)).filter(|last| *last > 0)
    }

    /// Adds back uses whose flush failed. Returns whether the caller must queue the entry again.
    pub(crate) fn restore(&self, count: i64) -> bool {
        self.count.fetch_add(u32::try_from(count).unwrap_or(u32::MAX), Ordering::SeqCst);
        !self.queued.swap(true, Ordering::SeqCst)
    }

    /// Takes the uses that are not flushed: the time of the last one, and their number. A use recorded at the same time
    /// is either taken by this call or queues the entry again.
    pub fn take(&self) -> (Micros, i64) {
        self.queued.store(false, Ordering::SeqCst);
        (self.last.load(Ordering::SeqCst), i64::from(self.count.swap(0, Ordering::SeqCst)))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::key::Digest;

    proptest! {
        #[test]
        fn packing_preserves_every_field(
            organization in ".{0,128}", name in "[^\0]{0,200}", scopes in prop::collection::vec("[a-z:.]{1,64}", 0..64),
            metadata in prop::collection::btree_map("[^\0]{1,10}", "[^\0]{0,20}", 0..32),
        ) {
            let binding = Binding { organization, instance: "i".into(), environment: String::new() };
            let facts = facts(binding, name, scopes, metadata);
            let entry = CachedKey::new(&facts, Some(1));
            prop_assert_eq!(entry.binding(), facts.binding);
            prop_assert_eq!(entry.name(), facts.name);
            prop_assert_eq!(entry.scopes().map(str::to_owned).collect::<Vec<_>>(), facts.scopes);
            let pairs: BTreeMap<_, _> = entry.metadata().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            prop_assert_eq!(pairs, facts.metadata);
        }
    }

    #[test]
    fn a_keys_own_rate_limit_is_kept_and_counted_in_its_weight() {
        let limit = RateLimit { limit: 7, window: 1_000_000 };
        let facts = facts(Binding::default(), String::new(), Vec::new(), BTreeMap::new());
        let without = CachedKey::new(&facts, Some(1));
        let with = CachedKey::new(&KeyFacts { rate_limit: Some(limit), ..facts }, Some(1));
        assert_eq!((without.rate_limit(), with.rate_limit()), (None, Some(limit)));
        assert!(with.weight() > without.weight());
    }

    /// With the two counters of its `Arc`, an entry must fit the allocator's size class of 112 bytes. The next class is
    /// 128 bytes, which costs 16 MB more at a million keys.
    #[test]
    fn a_cached_key_fits_the_allocators_112_byte_size_class() {
        assert!(size_of::<CachedKey>() + 2 * size_of::<usize>() <= 112, "{}", size_of::<CachedKey>());
    }

    /// A key with these fields, and defaults for all others.
    pub fn facts(binding: Binding, name: String, scopes: Vec<String>, metadata: BTreeMap<String, String>) -> KeyFacts {
        KeyFacts {
            id: KeyId(Uuid::nil()),
            keyspace: "k".into(),
            digest: Digest([0; 32]),
            binding,
            name,
            scopes,
            created_at: 1,
            expires_at: None,
            revoked: false,
            metadata,
            rate_limit: None,
            keyspaces: Vec::new(),
        }
    }

    #[test]
    fn uses_are_taken_once_and_the_next_use_queues_the_key_again() {
        let uses = PendingUses::default();
        assert!(uses.record(5));
        assert!(!uses.record(3));
        assert_eq!(uses.take(), (5, 2));
        assert!(uses.record(7));
        assert_eq!(uses.take(), (7, 1));
    }
}
