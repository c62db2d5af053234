//! The index of memory: a hash of the secret under a key that is random for each process, so that nobody can construct
//! two secrets that collide. No secret is kept.

use siphasher::sip128::SipHasher13;

/// A keyed hash of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tag(u128);

impl Tag {
    /// One of `shards` numbers.
    pub(super) fn shard(self, shards: usize) -> usize {
        // The high half: maps take their buckets from the low one.
        usize::from_le_bytes(*(self.0 >> 64).to_le_bytes().first_chunk().unwrap_or(&[0; 8])) % shards
    }
}

/// Makes tags.
pub(super) struct Tagger(SipHasher13);

impl Tagger {
    /// With a new random key; none if the system has no randomness.
    pub(super) fn new() -> Option<Self> {
        let mut key = [0; 16];
        getrandom::fill(&mut key).ok()?;
        Some(Self(SipHasher13::new_with_key(&key)))
    }

    pub(super) fn tag(&self, secret: &str) -> Tag {
        Tag(self.0.hash(secret.as_bytes()).as_u128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_depends_on_every_byte_and_on_the_process() {
        let (one, other) = (Tagger::new().unwrap(), Tagger::new().unwrap());
        assert_eq!(one.tag("ak_1"), one.tag("ak_1"));
        assert_ne!(one.tag("ak_1"), other.tag("ak_1"));
        for different in ["ak_2", "ak_", "ak_11", "", "ak_1\0"] {
            assert_ne!(one.tag("ak_1"), one.tag(different), "{different:?}");
        }
    }
}
