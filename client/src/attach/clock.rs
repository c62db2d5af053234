//! The clock that leases are counted on.

use std::time::{Duration, SystemTime};

/// Microseconds on a clock that never steps and keeps running while the machine is suspended; none where there is no
/// such clock, and so no lease.
#[cfg(target_os = "linux")]
#[expect(clippy::unnecessary_wraps, reason = "other systems have none")]
pub(super) fn boottime() -> Option<i64> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Some(now.tv_sec * 1_000_000 + now.tv_nsec / 1_000)
}

/// None: this platform has no clock that is known to count suspension.
#[cfg(not(target_os = "linux"))]
pub(super) fn boottime() -> Option<i64> {
    None
}

/// Converts a time of the wall clock to the clock of leases. It is as accurate as this machine's wall clock.
pub(super) fn from_wall(time: SystemTime, now: i64) -> i64 {
    #[expect(clippy::disallowed_methods, reason = "converts between the wall clock and the clock of leases")]
    let wall = SystemTime::now();
    let left = |length: Duration| i64::try_from(length.as_micros()).unwrap_or(i64::MAX);
    match time.duration_since(wall) {
        Ok(ahead) => now.saturating_add(left(ahead)),
        Err(past) => now.saturating_sub(left(past.duration())),
    }
}
