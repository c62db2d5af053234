//! Where spent limits are kept. The state is apart from the key cache: no invalidation or eviction resets a limit.

pub mod memory;

use std::net::IpAddr;

use crate::domain::key::KeyId;

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subject(u128);

impl Subject {
    /// A key's own limit.
    pub fn key(id: KeyId) -> Self {
        Self(id.0.as_u128())
    }

    /// A client address's limit; IPv6 by its /64, since one client has all of it. Key ids are UUIDv7, whose version
    /// bits no address of these two forms has, so the two kinds never meet.
    pub fn address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(u128::from(u32::from(v4)) | 4 << 120),
            IpAddr::V6(v6) => Self(u128::from(v6) >> 64 | 6 << 120),
        }
    }
}
