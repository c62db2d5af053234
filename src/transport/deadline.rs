//! Deadlines of calls.

use std::time::Duration;

use tokio::time::Instant;

/// Timeout of a call whose caller names no deadline.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest timeout that a caller may choose; a longer one is shortened to this.
const MAX_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Returns the deadline of a call that arrived now. It is a little earlier than the caller's own, so that the response
/// can still say why the call failed.
pub fn deadline(timeout: Option<Duration>) -> Instant {
    deadline_after(Instant::now(), timeout)
}

/// Returns the deadline of a call that arrived earlier.
pub fn deadline_after(arrived: Instant, timeout: Option<Duration>) -> Instant {
    let timeout = timeout.unwrap_or(DEFAULT_TIMEOUT).min(MAX_TIMEOUT);
    arrived + timeout.saturating_sub((timeout / 10).min(Duration::from_millis(100)))
}
