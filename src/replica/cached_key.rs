//! A key as memory keeps it: only what Verify needs, packed so that a million of them fit.

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
    verdict::KeyView,
};

/// Ends of the texts that are packed into one: organization, instance, environment, name, scopes; metadata is the rest.
const TEXTS: usize = 5;
/// What the cache itself and the allocator add to each entry, measured at a million entries.
const OVERHEAD: usize = 120;

/// A cached key.
#[derive(Debug)]
pub struct CachedKey {
    /// Its id.
    pub id: KeyId,
    /// Its keyspace; none if that is no longer configured.
    pub keyspace: Option<KeyspaceIndex>,
    /// When it was made.
    pub created_at: Micros,
    expires_at: Micros,
    revoked: bool,
    rare: Option<Box<Rare>>,
    ends: [u16; TEXTS],
    text: Box<str>,
    /// Uses that are not written down yet.
    pub uses: PendingUses,
}

/// What few keys have: apart, so that the others do not pay for it.
#[derive(Debug, Default)]
struct Rare {
    rate_limit: Option<RateLimit>,
    allowed_keyspaces: Option<Arc<AllowedKeyspaces>>,
}

impl CachedKey {
    /// Packs what was read.
    pub fn new(key: &KeyFacts, keyspace: Option<KeyspaceIndex>) -> Self {
        let Binding { organization, instance, environment } = &key.binding;
        let mut text = String::new();
        let mut ends = [0; TEXTS];
        // Scopes hold no spaces and metadata no NUL: both are refused at creation.
        let scopes = key.scopes.join(" ");
        for (end, part) in ends.iter_mut().zip([organization, instance, environment, &key.name, &scopes]) {
            text.push_str(part);
            // The bounds of every field together stay far below 64 KiB.
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

    /// The same key, limited to what it may ask about.
    #[must_use]
    pub fn limited_to(mut self, allowed_keyspaces: Option<Arc<AllowedKeyspaces>>) -> Self {
        if allowed_keyspaces.is_some() {
            self.rare.get_or_insert_default().allowed_keyspaces = allowed_keyspaces;
        }
        self
    }

    /// What the key may ask about; none if it is not limited.
    pub fn allowed_keyspaces(&self) -> Option<&Arc<AllowedKeyspaces>> {
        self.rare.as_ref()?.allowed_keyspaces.as_ref()
    }

    /// Bytes that the entry takes in all.
    pub fn weight(&self) -> u64 {
        let rare = self.rare.as_deref().map_or(0, size_of_val);
        (size_of::<Self>() + self.text.len() + rare + OVERHEAD) as u64
    }

    fn part(&self, place: usize) -> &str {
        let start = place.checked_sub(1).map_or(0, |before| usize::from(self.ends[before]));
        self.text.get(start..usize::from(self.ends[place])).unwrap_or_default()
    }

    /// Empty if none.
    pub fn organization(&self) -> &str {
        self.part(0)
    }

    /// Empty if none.
    pub fn instance(&self) -> &str {
        self.part(1)
    }

    /// Empty if none.
    pub fn environment(&self) -> &str {
        self.part(2)
    }

    /// May be empty.
    pub fn name(&self) -> &str {
        self.part(3)
    }

    /// What the key may do.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.part(4).split(' ').filter(|scope| !scope.is_empty())
    }

    /// Free-form pairs.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        let rest = self.text.get(usize::from(self.ends[TEXTS - 1])..).unwrap_or_default();
        let mut parts = rest.split_terminator('\0');
        std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
    }

    /// When the key stops being valid; none if never.
    pub fn expire_time(&self) -> Option<Micros> {
        (self.expires_at != Micros::MAX).then_some(self.expires_at)
    }

    /// The key's own rate limit; none if its keyspace's holds.
    pub fn rate_limit(&self) -> Option<RateLimit> {
        self.rare.as_ref()?.rate_limit
    }

    /// What the key is bound to.
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

/// Uses of a key that are not written down yet.
#[derive(Debug, Default)]
pub struct PendingUses {
    last: AtomicI64,
    count: AtomicU32,
    queued: AtomicBool,
}

impl PendingUses {
    /// Counts one use; says whether the entry must be queued for writing.
    pub fn record(&self, now: Micros) -> bool {
        self.last.fetch_max(now, Ordering::Relaxed);
        // Sequentially consistent with `take`: either it sees this count, or this sees the queue left.
        self.count.fetch_add(1, Ordering::SeqCst);
        !self.queued.load(Ordering::SeqCst) && !self.queued.swap(true, Ordering::SeqCst)
    }

    /// The last use that was counted here, written down or not.
    pub fn last(&self) -> Option<Micros> {
        Some(self.last.load(Ordering::Relaxed)).filter(|last| *last > 0)
    }

    /// Adds uses that were taken and could not be written; says whether the entry must be queued again.
    pub fn restore(&self, count: i64) -> bool {
        self.count.fetch_add(u32::try_from(count).unwrap_or(u32::MAX), Ordering::SeqCst);
        !self.queued.swap(true, Ordering::SeqCst)
    }

    /// Takes what is not written down. A use that is marked meanwhile is taken now or queues the entry again.
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
        fn an_entry_gives_back_what_was_packed(
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
    fn a_limit_of_its_own_is_kept_and_weighed() {
        let limit = RateLimit { limit: 7, window: 1_000_000 };
        let facts = facts(Binding::default(), String::new(), Vec::new(), BTreeMap::new());
        let without = CachedKey::new(&facts, Some(1));
        let with = CachedKey::new(&KeyFacts { rate_limit: Some(limit), ..facts }, Some(1));
        assert_eq!((without.rate_limit(), with.rate_limit()), (None, Some(limit)));
        assert!(with.weight() > without.weight());
    }

    /// With its two counters an entry of 112 bytes is the allocator's last size before 128: at a million keys the next
    /// one takes 16 MB more.
    #[test]
    fn an_entry_stays_small() {
        assert!(size_of::<CachedKey>() + 2 * size_of::<usize>() <= 112, "{}", size_of::<CachedKey>());
    }

    /// A key that says nothing but this.
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
    fn uses_are_taken_once_and_queue_again() {
        let uses = PendingUses::default();
        assert!(uses.record(5));
        assert!(!uses.record(3));
        assert_eq!(uses.take(), (5, 2));
        assert!(uses.record(7));
        assert_eq!(uses.take(), (7, 1));
    }
}
