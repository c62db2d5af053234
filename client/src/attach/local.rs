//! Access to the memory for programs that answer the checks of other callers, such as `keyward agent`.

use std::{fmt, sync::Arc};

use super::{
    memory::{Entry, Memory, VerifyRights},
    tag::Tagger,
};
use crate::verdict::Principal;

/// Memory that may answer now. Everything that is read here comes from one session, under a lease that was checked
/// once: drop it before anything is awaited.
pub struct LocalMemory<'a> {
    pub(super) memory: Arc<Memory>,
    pub(super) tagger: &'a Tagger,
    pub(super) now: i64,
}

impl LocalMemory<'_> {
    /// A key that is in memory and has not expired.
    pub fn key(&self, secret: &str) -> Option<LocalKey> {
        let entry = self.memory.get(self.tagger.tag(secret), self.now)?;
        Some(LocalKey { entry, now: self.now })
    }

    /// A fingerprint of the rules by which the session's replica decides requests of gateways, apart from keys; empty
    /// if the replica sent none. It is the same throughout a session: a replica reads its configuration once.
    pub fn gateway_rules(&self) -> &str {
        self.memory.gateway_rules()
    }
}

impl fmt::Debug for LocalMemory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalMemory")
    }
}

/// A key in memory.
pub struct LocalKey {
    entry: Arc<Entry>,
    now: i64,
}

impl LocalKey {
    /// Whose key it is.
    pub fn principal(&self) -> Principal {
        Principal::of_memory(Arc::clone(&self.entry.facts))
    }

    /// Whether its holder may verify keys of this keyspace.
    pub fn may_verify(&self, keyspace: &str) -> bool {
        match self.entry.rights() {
            None => false,
            Some(VerifyRights::All) => true,
            Some(VerifyRights::Keyspaces(names)) => names.iter().any(|name| name == keyspace),
        }
    }

    /// Whether its holder may verify keys of any keyspace.
    pub fn is_of_verifier(&self) -> bool {
        self.entry.rights().is_some()
    }

    /// Counts a VALID answer, to be reported as a use of the key.
    pub fn used(&self) {
        self.entry.used(self.now);
    }
}

impl fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalKey").field(&self.principal().key_id()).finish()
    }
}
