//! `[replica]`: how one replica answers from memory.

use std::time::Duration;

use super::{
    section::Section,
    setting::{Setting, Table},
    size::bytes,
};

/// The table.
pub const TABLE: Table = Table {
    name: "replica",
    list: false,
    help: "How one replica answers from memory.",
    settings: &[LEASE, CACHE],
    tables: &[],
};

const LEASE: Setting = Setting::new(
    "lease",
    "\"3s\"",
    "How long a replica may answer from memory without reaching the database, 300ms to 60s: see \
     [consistency.md](consistency.md).",
)
.variable("KEYWARD_REPLICA_LEASE");

const CACHE: Setting =
    Setting::new("cache", "\"256MiB\"", "Memory for cached keys, 1MiB to 1024GiB.").variable("KEYWARD_REPLICA_CACHE");

/// `[replica]`
#[derive(Debug, Clone)]
pub struct ReplicaSettings {
    /// How long memory may answer without reaching the database, and how long a Revoke waits for a replica that does
    /// not respond.
    pub lease: Duration,
    /// Memory for cached keys, in bytes.
    pub cache_bytes: u64,
}

/// Reads the table.
pub fn read(section: &Section<'_>) -> Option<ReplicaSettings> {
    let lease = section.parsed(&LEASE, |text| {
        let lease = humantime::parse_duration(text).ok();
        lease
            .filter(|lease| (Duration::from_millis(300)..=Duration::from_mins(1)).contains(lease))
            .ok_or_else(|| "must be a length of time from 300ms to 60s".to_owned())
    });
    let cache = section.parsed(&CACHE, |text| {
        bytes(text, 1 << 20..=1 << 40, "must be a size from 1MiB to 1024GiB, such as \"256MiB\"")
    });
    Some(ReplicaSettings { lease: lease?, cache_bytes: cache? })
}
