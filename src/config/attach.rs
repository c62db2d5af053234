//! `[attach]`: clients that hold keys in their own memory.

use std::time::Duration;

use super::{
    section::Section,
    setting::{Setting, Table},
};

/// The table.
pub const TABLE: Table = Table {
    name: "attach",
    list: false,
    help: "Clients that hold keys in their own memory, as strictly as a replica.",
    settings: &[LEASE, MAX_CLIENTS],
    tables: &[],
};

const LEASE: Setting = Setting::new(
    "lease",
    "\"2s\"",
    "How long a client may answer without hearing from its replica, 100ms to 40s; at most two thirds of `replica.lease`.",
)
.variable("KEYWARD_ATTACH_LEASE");

const MAX_CLIENTS: Setting =
    Setting::new("max_clients", "1000", "Attached clients of one replica, 0 to 100000; at most 16 of one caller.");

/// `[attach]`
#[derive(Debug, Clone, Copy)]
pub struct AttachSettings {
    /// How long a client may answer from its memory without hearing from its replica.
    pub lease: Duration,
    /// Attached clients of one replica.
    pub max_clients: usize,
}

/// Reads the table.
pub fn read(section: &Section<'_>) -> Option<AttachSettings> {
    let lease = section.parsed(&LEASE, |text| {
        let lease = humantime::parse_duration(text).ok();
        lease
            .filter(|lease| (Duration::from_millis(100)..=Duration::from_secs(40)).contains(lease))
            .ok_or_else(|| "must be a length of time from 100ms to 40s".to_owned())
    });
    let max_clients = section.number(&MAX_CLIENTS, 0..=100_000);
    Some(AttachSettings { lease: lease?, max_clients: max_clients? })
}
