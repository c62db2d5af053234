//! The record of a key.

use std::{collections::BTreeMap, fmt};

use super::id::KeyId;
use crate::domain::{clock::Micros, rate_limit::RateLimit};

/// SHA-256 of a secret. Secrets are stored in this form only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl std::hash::Hash for Digest {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // A digest is uniform already, so its first word serves as its hash.
        state.write_u64(u64::from_ne_bytes(std::array::from_fn(|index| self.0[index])));
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to distinguish digests in test output; useless for finding the secret.
        write!(f, "Digest({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// Whether a key can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStatus {
    /// Neither revoked nor expired.
    Active,
    /// Revoked, even if it has expired since.
    Revoked,
    /// Past its expiry.
    Expired,
}

/// The organization, instance and environment that a key is bound to. An empty string means none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Binding {
    /// Opaque, case-sensitive name of the organization.
    pub organization: String,
    /// Opaque, case-sensitive name of the instance.
    pub instance: String,
    /// Opaque, case-sensitive name of the environment.
    pub environment: String,
}

/// A key with all its fields, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// The key's id.
    pub id: KeyId,
    /// Name of the keyspace.
    pub keyspace: String,
    /// Digest of the secret.
    pub digest: Digest,
    /// First 12 characters of the secret, for display.
    pub prefix: String,
    /// Organization, instance and environment.
    pub binding: Binding,
    /// Display name; may be empty.
    pub name: String,
    /// Scopes that it holds.
    pub scopes: Vec<String>,
    /// Creation time.
    pub created_at: Micros,
    /// Expiry time; `None` if it does not expire.
    pub expires_at: Option<Micros>,
    /// Time of its revocation.
    pub revoked_at: Option<Micros>,
    /// Reason of its revocation; may be empty.
    pub revoke_reason: String,
    /// The caller that created it.
    pub created_by: String,
    /// The caller that revoked it; empty if it is not revoked.
    pub revoked_by: String,
    /// URL that its events are sent to; empty if there is none.
    pub webhook_url: String,
    /// Version of its webhook signing secret; 0 until a URL was set for the first time. The version determines which
    /// master key the secret derives from, see `master_keys.rs`.
    pub webhook_version: i64,
    /// Metadata pairs.
    pub metadata: BTreeMap<String, String>,
    /// The key's own rate limit; `None` if the keyspace's limit applies.
    pub rate_limit: Option<RateLimit>,
    /// Names of the keyspaces that a service's key may verify; empty if it is not limited.
    pub keyspaces: Vec<String>,
    /// The database's revision at its last change; 0 if it was never changed.
    pub revision: i64,
    /// Time of the last VALID verdict that has been flushed to the database.
    pub last_used_at: Option<Micros>,
}

impl KeyRecord {
    /// The status at `now`. A key is expired from the moment of its expiry on.
    pub fn status(&self, now: Micros) -> KeyStatus {
        if self.revoked_at.is_some() {
            KeyStatus::Revoked
        } else if self.expires_at.is_some_and(|at| at <= now) {
            KeyStatus::Expired
        } else {
            KeyStatus::Active
        }
    }
}

/// The part of a [`KeyRecord`] that look-ups read: what Verify needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFacts {
    /// The key's id.
    pub id: KeyId,
    /// Name of the keyspace.
    pub keyspace: String,
    /// Digest of the secret.
    pub digest: Digest,
    /// Organization, instance and environment.
    pub binding: Binding,
    /// Display name; may be empty.
    pub name: String,
    /// Scopes that it holds.
    pub scopes: Vec<String>,
    /// Creation time.
    pub created_at: Micros,
    /// Expiry time; `None` if it does not expire.
    pub expires_at: Option<Micros>,
    /// Whether it is revoked.
    pub revoked: bool,
    /// Metadata pairs.
    pub metadata: BTreeMap<String, String>,
    /// The key's own rate limit; `None` if the keyspace's limit applies.
    pub rate_limit: Option<RateLimit>,
    /// Names of the keyspaces that a service's key may verify; empty if it is not limited.
    pub keyspaces: Vec<String>,
}

impl From<&KeyRecord> for KeyFacts {
    fn from(key: &KeyRecord) -> Self {
        Self {
            id: key.id,
            keyspace: key.keyspace.clone(),
            digest: key.digest,
            binding: key.binding.clone(),
            name: key.name.clone(),
            scopes: key.scopes.clone(),
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked: key.revoked_at.is_some(),
            metadata: key.metadata.clone(),
            rate_limit: key.rate_limit,
            keyspaces: key.keyspaces.clone(),
        }
    }
}
