//! What a rate limit applies to.

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

use crate::domain::key::KeyId;

/// The key or client address that a limit applies to. 128 bits as two words, so that it needs no wider alignment than
/// the state that it is stored with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subject(pub(super) u64, pub(super) u64);

impl Subject {
    /// A key.
    pub fn key(id: KeyId) -> Self {
        let (high, low) = id.0.as_u64_pair();
        Self(high, low)
    }

    /// A caller that creates keys in a keyspace. The highest byte is 1, and the version bits of a UUID are 0, so it
    /// collides with neither a key nor an address.
    pub fn creator(keyspace: &str, actor: &str) -> Self {
        let digest = Sha256::new().chain_update(keyspace).chain_update([0]).chain_update(actor).finalize();
        let word = |at: usize| digest[at..].iter().take(8).fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
        Self((word(0) >> 8 | 1 << 56) & !0xf000, word(8))
    }

    /// A client address. IPv6 addresses count by their /64 network, since one client usually has all of it. Key ids are
    /// UUIDv7; their version bits never occur in these two forms of address, so keys and addresses never collide.
    pub fn address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(4 << 56, u64::from(u32::from(v4))),
            IpAddr::V6(v6) => Self(6 << 56, (u128::from(v6) >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_creator_is_one_caller_in_one_keyspace() {
        let one = Subject::creator("norrix", "user:ann");
        assert_eq!(one, Subject::creator("norrix", "user:ann"));
        for (keyspace, actor) in [("noro", "user:ann"), ("norrix", "user:bob"), ("norrixuser:a", "nn")] {
            assert_ne!(one, Subject::creator(keyspace, actor));
        }
        assert_eq!((one.0 >> 56, one.0 & 0xf000), (1, 0));
    }

    #[test]
    fn a_client_has_one_limit_for_its_whole_ipv6_network() {
        let of = |text: &str| Subject::address(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
