//! Key ids, and the generator that makes them.

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
};

use uuid::Uuid;

use crate::domain::{
    clock::{Clock, Entropy, Micros},
    typeid::{self, DIGITS},
};

const TYPE_PREFIX: &str = "key_";

/// A key's id: a UUIDv7, shown as a TypeID (`key_01h455vb4pex5vsknk084sn02q`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub Uuid);

impl KeyId {
    /// The id as text.
    pub fn text(self) -> String {
        typeid::format(TYPE_PREFIX, self.0)
    }

    /// The id as text without an allocation, for the response of each Verify.
    pub(crate) fn ascii(self) -> [u8; TYPE_PREFIX.len() + DIGITS] {
        let mut text = [0; TYPE_PREFIX.len() + DIGITS];
        let (prefix, digits) = text.split_at_mut(TYPE_PREFIX.len());
        prefix.copy_from_slice(TYPE_PREFIX.as_bytes());
        digits.copy_from_slice(&typeid::digits(self.0));
        text
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// The text is not a key id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a key id such as key_01h455vb4pex5vsknk084sn02q")]
pub struct InvalidKeyId;

impl FromStr for KeyId {
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidKeyId> {
        typeid::parse(TYPE_PREFIX, text).map(Self).ok_or(InvalidKeyId)
    }
}

/// Generates ids that strictly increase within this process, even if the wall clock steps back.
#[derive(Debug, Default)]
pub struct KeyIdGenerator {
    /// Milliseconds (48 bits) and counter (12 bits) of the last id.
    last: AtomicU64,
}

impl KeyIdGenerator {
    /// Generates the next id.
    pub fn next(&self, clock: &dyn Clock, entropy: &dyn Entropy) -> KeyId {
        self.next_with_time(clock, entropy).0
    }

    /// Generates the next id, and returns the time that it was made from: the id holds the same millisecond, unless the
    /// wall clock stepped back.
    pub fn next_with_time(&self, clock: &dyn Clock, entropy: &dyn Entropy) -> (KeyId, Micros) {
        let mut random = [0_u8; 10];
        entropy.fill(&mut random);
        let (mut at, mut next) = (0, 0);
        // Read the clock after `last`. Otherwise a concurrent call could read the clock later and store its id first;
        // this id would then be later than the time that is returned with it.
        let advance = |last: u64| {
            at = clock.wall();
            let millis = u64::try_from(at / 1_000).unwrap_or(0);
            // The counter starts in its lower half, so that a burst within one millisecond rarely overflows into the next.
            let fresh = millis << 12 | u64::from(random[8]) << 3;
            next = fresh.max(last + 1);
            Some(next)
        };
        let _ = self.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, advance);
        let tail = u64::from_be_bytes(random[..8].try_into().unwrap_or_default()) >> 2;
        let high = (next >> 12) << 16 | 0x7000 | (next & 0xfff);
        (KeyId(Uuid::from_u128(u128::from(high) << 64 | 2_u128 << 62 | u128::from(tail))), at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::clock::{Micros, SystemEntropy};

    struct FixedClock(Micros);
    impl Clock for FixedClock {
        fn wall(&self) -> Micros {
            self.0
        }
        fn boottime(&self) -> Micros {
            self.0
        }
    }

    #[test]
    fn the_published_example_of_a_typeid_round_trips() {
        // A valid example of the TypeID specification: the text of this UUID.
        let id = KeyId(Uuid::parse_str("01890a5d-ac96-774b-bcce-b302099a8057").unwrap());
        assert_eq!(id.to_string(), "key_01h455vb4pex5vsknk084sn02q");
        assert_eq!("key_01h455vb4pex5vsknk084sn02q".parse(), Ok(id));
    }

    #[test]
    fn ids_strictly_increase_while_the_clock_stops_or_steps_back() {
        let ids = KeyIdGenerator::default();
        let mut last = ids.next(&FixedClock(2_000_000_000_000), &SystemEntropy);
        for wall in [2_000_000_000_000, 1_000_000_000_000, 0].into_iter().cycle().take(20_000) {
            let next = ids.next(&FixedClock(wall), &SystemEntropy);
            assert!(next > last && next.to_string() > last.to_string());
            assert_eq!((next.0.get_version_num(), next.0.get_variant()), (7, uuid::Variant::RFC4122));
            last = next;
        }
    }

    /// A clock during whose first reading another id is made, at a later time.
    struct Interrupted(&'static KeyIdGenerator, AtomicU64);
    impl Clock for Interrupted {
        fn wall(&self) -> Micros {
            if self.1.fetch_add(1, Ordering::Relaxed) > 0 {
                return 3_000_000_000_500;
            }
            self.0.next(&FixedClock(2_000_000_000_000), &SystemEntropy);
            1_000_000_000_000
        }
        fn boottime(&self) -> Micros {
            self.wall()
        }
    }

    #[test]
    fn an_id_holds_the_time_that_is_returned_with_it_beside_other_calls() {
        let ids: &'static KeyIdGenerator = Box::leak(Box::default());
        let (id, at) = ids.next_with_time(&Interrupted(ids, AtomicU64::new(0)), &SystemEntropy);
        assert_eq!((id.0.as_u128() >> 80, at), (3_000_000_000, 3_000_000_000_500));
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
