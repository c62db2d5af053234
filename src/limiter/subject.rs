//! What a rate limit applies to.

use std::net::IpAddr;

use crate::domain::key::KeyId;

/// The key or client address that a limit applies to. 128 bits as two words, so that it needs no wider alignment than
/// the state stored beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subject(pub(super) u64, pub(super) u64);

impl Subject {
    /// A key.
    pub fn key(id: KeyId) -> Self {
        let (high, low) = id.0.as_u64_pair();
        Self(high, low)
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
    fn a_client_has_one_limit_for_its_whole_ipv6_network() {
        let of = |text: &str| Subject::address(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
