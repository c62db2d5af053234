//! `[replica]`: how one replica answers from memory.

use std::time::Duration;

use super::{
    section::Section,
    setting::{Setting, Table},
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
pub struct Replica {
    /// How long memory may answer without reaching the database, and how long a Revoke waits for a replica that does
    /// not respond.
    pub lease: Duration,
    /// Memory for cached keys, in bytes.
    pub cache_bytes: u64,
}

/// Reads the table.
pub fn read(section: &Section<'_>) -> Option<Replica> {
    let lease = section.parsed(&LEASE, |text| {
        let lease = humantime::parse_duration(text).ok();
        lease
            .filter(|lease| (Duration::from_millis(300)..=Duration::from_mins(1)).contains(lease))
            .ok_or_else(|| "must be a length of time from 300ms to 60s".to_owned())
    });
    let cache = section.parsed(&CACHE, bytes);
    Some(Replica { lease: lease?, cache_bytes: cache? })
}

fn bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1_u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let read = units.iter().find_map(|(unit, size)| {
        let number = text.strip_suffix(unit)?.trim().parse::<u64>().ok()?;
        number.checked_mul(*size)
    });
    read.filter(|bytes| (1 << 20..=1 << 40).contains(bytes))
        .ok_or_else(|| "must be a size from 1MiB to 1024GiB, such as \"256MiB\"".to_owned())
}
