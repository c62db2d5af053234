//! Metrics of attached clients: names, help texts and handles.

use metrics::{Counter, Gauge, Unit};

/// Sessions of attached clients.
const SESSIONS: &str = "keyward_attached_sessions";
/// Sessions whose client has not acknowledged a message.
const BEHIND: &str = "keyward_attached_sessions_behind";
/// Seconds for which clients whose sessions have ended may still answer.
const GHOST_SECONDS: &str = "keyward_attached_ghost_seconds";
/// Seconds for which the earliest change that clients are not done with has waited.
const WAIT_SECONDS: &str = "keyward_attached_wait_seconds";
/// Sessions that were opened.
const OPENED: &str = "keyward_attached_sessions_opened_total";
/// Sessions that were ended because their clients were too slow.
const CUT: &str = "keyward_attached_sessions_cut_total";
/// Messages to clients about changes.
const NOTICES: &str = "keyward_attached_notices_total";

/// Attached clients at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttachSnapshot {
    /// Number of sessions.
    pub sessions: usize,
    /// Number of sessions whose client has not acknowledged a message.
    pub behind: usize,
    /// How long clients whose sessions have ended may still answer, in microseconds.
    pub ghost_micros: i64,
    /// How long the earliest change that clients are not done with has waited, in microseconds.
    pub wait_micros: i64,
    /// Number of sessions that were opened.
    pub opened: u64,
    /// Number of sessions that were ended because their clients were too slow.
    pub cut: u64,
    /// Number of messages about changes.
    pub notices: u64,
}

/// The handles.
pub(super) struct AttachMetrics {
    sessions: Gauge,
    behind: Gauge,
    ghost_seconds: Gauge,
    wait_seconds: Gauge,
    opened: Counter,
    cut: Counter,
    notices: Counter,
}

impl AttachMetrics {
    /// Registers them with the current recorder.
    pub(super) fn new() -> Self {
        metrics::describe_gauge!(SESSIONS, "Sessions of attached clients.");
        metrics::describe_gauge!(BEHIND, "Sessions whose client has not acknowledged a message.");
        metrics::describe_gauge!(GHOST_SECONDS, Unit::Seconds, "How long clients that are gone may still answer.");
        metrics::describe_gauge!(WAIT_SECONDS, Unit::Seconds, "How long the earliest change has waited for clients.");
        metrics::describe_counter!(OPENED, "Sessions of attached clients that were opened.");
        metrics::describe_counter!(CUT, "Sessions that were ended because their clients were too slow.");
        metrics::describe_counter!(NOTICES, "Messages to attached clients about changes.");
        Self {
            sessions: metrics::gauge!(SESSIONS),
            behind: metrics::gauge!(BEHIND),
            ghost_seconds: metrics::gauge!(GHOST_SECONDS),
            wait_seconds: metrics::gauge!(WAIT_SECONDS),
            opened: metrics::counter!(OPENED),
            cut: metrics::counter!(CUT),
            notices: metrics::counter!(NOTICES),
        }
    }

    /// Sets all of them.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; the values stay far below 2^53")]
    pub(super) fn set(&self, snapshot: AttachSnapshot) {
        self.sessions.set(snapshot.sessions as f64);
        self.behind.set(snapshot.behind as f64);
        self.ghost_seconds.set(snapshot.ghost_micros as f64 / 1e6);
        self.wait_seconds.set(snapshot.wait_micros as f64 / 1e6);
        self.opened.absolute(snapshot.opened);
        self.cut.absolute(snapshot.cut);
        self.notices.absolute(snapshot.notices);
    }
}
