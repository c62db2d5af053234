//! The status of an attached client.

use std::time::Duration;

/// The state of the session with Keyward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachState {
    /// There is none yet, or the last one is broken and there will be another one.
    Connecting,
    /// It is open.
    Open,
    /// The server is of a version without Attach: every check is a call. It is tried again from time to time.
    Unsupported,
    /// The server does not let this caller attach, or has as many clients as it may have. It is tried again from time
    /// to time.
    Refused,
}

/// Whether memory answers, and how often it did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachStatus {
    /// The state of the session.
    pub state: AttachState,
    /// Whether memory may answer now.
    pub live: bool,
    /// For how long it may answer without a further message from Keyward: zero if it is not live.
    pub lease: Duration,
    /// Sessions that were opened.
    pub sessions: u64,
    /// Checks that were answered from memory. The last second of them may be missing.
    pub answers: u64,
    /// Keys in memory.
    pub keys: usize,
    /// Bytes that they take.
    pub bytes: usize,
    /// Keys that work waits for to end, see [`Principal::ended`](crate::Principal::ended).
    pub watched_keys: usize,
    /// How many futures wait for the ends of these keys.
    pub waiters: usize,
    /// Checks that were calls because there was no live lease.
    pub calls_without_lease: u64,
    /// Checks that were calls although there was one: the key was not in memory, or it does not satisfy the check.
    pub calls_for_keys: u64,
}
