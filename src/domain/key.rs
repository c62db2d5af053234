//! The key record, its id and its status.

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
};

use uuid::Uuid;

use super::{
    clock::{Clock, Entropy, Micros},
    rate_limit::RateLimit,
};

/// SHA-256 of a secret: the only form of it that is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl std::hash::Hash for Digest {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // A digest is uniform already: its first word is as good as any hash of it.
        state.write_u64(u64::from_ne_bytes(std::array::from_fn(|place| self.0[place])));
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to tell two apart in a test's output; useless for finding the secret.
        write!(f, "Digest({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

const TYPE_PREFIX: &str = "key_";
/// Characters after it.
const DIGITS: usize = 26;
/// Crockford's base 32 in lower case, as TypeID has it.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A key's id: a UUIDv7, shown as a TypeID (`key_01h455vb4pex5vsknk084sn02q`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub Uuid);

impl KeyId {
    /// The id as text.
    pub fn text(self) -> String {
        typeid(TYPE_PREFIX, self.0)
    }

    /// The same without an allocation: every verdict has one.
    pub fn ascii(self) -> [u8; TYPE_PREFIX.len() + DIGITS] {
        let mut text = [0; TYPE_PREFIX.len() + DIGITS];
        let (prefix, digits) = text.split_at_mut(TYPE_PREFIX.len());
        prefix.copy_from_slice(TYPE_PREFIX.as_bytes());
        digits.copy_from_slice(&base32(self.0));
        text
    }
}

/// A UUID as a TypeID.
pub(super) fn typeid(prefix: &str, id: Uuid) -> String {
    let mut text = String::with_capacity(prefix.len() + DIGITS);
    text.push_str(prefix);
    text.extend(base32(id).map(char::from));
    text
}

fn base32(id: Uuid) -> [u8; DIGITS] {
    let value = id.as_u128();
    std::array::from_fn(|place| ALPHABET[(value >> (5 * (DIGITS - 1 - place))) as usize & 31])
}

/// The UUID of a TypeID with this prefix; none if the text is not one.
pub(super) fn parse_typeid(prefix: &str, text: &str) -> Option<Uuid> {
    let body = text.strip_prefix(prefix)?.as_bytes();
    // 26 characters hold 130 bits: the first one may not go past 7.
    if body.len() != DIGITS || body[0] > b'7' {
        return None;
    }
    let mut value = 0_u128;
    for byte in body {
        let digit = ALPHABET.iter().position(|c| c == byte)?;
        value = value << 5 | digit as u128;
    }
    Some(Uuid::from_u128(value))
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// The text is not a key id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a key id such as key_01h455vb4pex5vsknk084sn02q")]
pub struct NotAKeyId;

impl FromStr for KeyId {
    type Err = NotAKeyId;

    fn from_str(text: &str) -> Result<Self, NotAKeyId> {
        parse_typeid(TYPE_PREFIX, text).map(Self).ok_or(NotAKeyId)
    }
}

/// Makes ids that strictly increase within this process, whatever the wall clock does.
#[derive(Debug, Default)]
pub struct KeyIds {
    /// The last milliseconds (48 bits) and counter (12 bits) given out.
    last: AtomicU64,
}

impl KeyIds {
    /// The next id.
    pub fn next(&self, clock: &dyn Clock, entropy: &dyn Entropy) -> KeyId {
        let mut random = [0_u8; 10];
        entropy.fill(&mut random);
        let millis = u64::try_from(clock.wall() / 1_000).unwrap_or(0);
        // The counter starts in the lower half, so that a burst within a millisecond rarely borrows from the next one.
        let fresh = millis << 12 | u64::from(random[8]) << 3;
        let step = |last: u64| fresh.max(last + 1);
        let last =
            self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(step(last))).map_or(fresh, step);
        let tail = u64::from_be_bytes(random[..8].try_into().unwrap_or_default()) >> 2;
        let high = (last >> 12) << 16 | 0x7000 | (last & 0xfff);
        KeyId(Uuid::from_u128(u128::from(high) << 64 | 2_u128 << 62 | u128::from(tail)))
    }
}

/// Whether a key is good now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStatus {
    /// Neither revoked nor expired.
    Active,
    /// Revoked; also when it has expired since.
    Revoked,
    /// Past its expiry.
    Expired,
}

/// What a key is bound to. An empty string is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Binding {
    /// Opaque, case-sensitive name of the organization.
    pub organization: String,
    /// Opaque, case-sensitive name of the instance.
    pub instance: String,
    /// Opaque, case-sensitive name of the environment.
    pub environment: String,
}

/// A key as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// The id.
    pub id: KeyId,
    /// Name of its keyspace.
    pub keyspace: String,
    /// Digest of its secret.
    pub digest: Digest,
    /// First 12 characters of its secret.
    pub prefix: String,
    /// What it is bound to.
    pub binding: Binding,
    /// Its name; may be empty.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: Micros,
    /// When it stops being valid; none if never.
    pub expires_at: Option<Micros>,
    /// When it was revoked.
    pub revoked_at: Option<Micros>,
    /// Why it was revoked; may be empty.
    pub revoke_reason: String,
    /// Who made it.
    pub created_by: String,
    /// Who revoked it; empty if nobody.
    pub revoked_by: String,
    /// Where its notifications go; empty if nowhere.
    pub webhook_url: String,
    /// Version of its webhook signing secret; 0 until a URL was set for the first time. The installation chooses it: it
    /// tells which master key the secret derives from.
    pub webhook_version: i64,
    /// Free-form pairs.
    pub metadata: BTreeMap<String, String>,
    /// How often it may be used, where that is not as its keyspace says.
    pub rate_limit: Option<RateLimit>,
    /// Names of the keyspaces that a service is limited to; empty if it is not limited.
    pub keyspaces: Vec<String>,
    /// The installation's revision at its last change; 0 if it was never changed.
    pub revision: i64,
    /// The last VALID answer that has been written down.
    pub last_used_at: Option<Micros>,
}

impl KeyRecord {
    /// The status at `now`. A key is expired from its expiry on, that moment included.
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

/// What a verdict is taken from: the part of a [`KeyRecord`] that look-ups read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFacts {
    /// The id.
    pub id: KeyId,
    /// Name of its keyspace.
    pub keyspace: String,
    /// Digest of its secret.
    pub digest: Digest,
    /// What it is bound to.
    pub binding: Binding,
    /// Its name; may be empty.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: Micros,
    /// When it stops being valid; none if never.
    pub expires_at: Option<Micros>,
    /// Whether it was revoked.
    pub revoked: bool,
    /// Free-form pairs.
    pub metadata: BTreeMap<String, String>,
    /// How often it may be used, where that is not as its keyspace says.
    pub rate_limit: Option<RateLimit>,
    /// Names of the keyspaces that a service is limited to; empty if it is not limited.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::clock::SystemEntropy;

    struct Stuck(Micros);
    impl Clock for Stuck {
        fn wall(&self) -> Micros {
            self.0
        }
        fn boottime(&self) -> Micros {
            self.0
        }
    }

    #[test]
    fn the_published_example_of_a_typeid_round_trips() {
        // From the TypeID specification's valid examples: this UUID and this text belong together.
        let id = KeyId(Uuid::parse_str("01890a5d-ac96-774b-bcce-b302099a8057").unwrap());
        assert_eq!(id.to_string(), "key_01h455vb4pex5vsknk084sn02q");
        assert_eq!("key_01h455vb4pex5vsknk084sn02q".parse(), Ok(id));
    }

    #[test]
    fn ids_strictly_increase_while_the_clock_stands_still_or_steps_back() {
        let ids = KeyIds::default();
        let mut last = ids.next(&Stuck(2_000_000_000_000), &SystemEntropy);
        for wall in [2_000_000_000_000, 1_000_000_000_000, 0].into_iter().cycle().take(20_000) {
            let next = ids.next(&Stuck(wall), &SystemEntropy);
            assert!(next > last && next.to_string() > last.to_string());
            assert_eq!((next.0.get_version_num(), next.0.get_variant()), (7, uuid::Variant::RFC4122));
            last = next;
        }
    }

    proptest! {
        #[test]
        fn every_id_round_trips(value: u128) {
            let id = KeyId(Uuid::from_u128(value));
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = text.parse::<KeyId>();
            let _ = format!("key_{text}").parse::<KeyId>();
        }
    }
}
