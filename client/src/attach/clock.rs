//! The clock that leases are counted on.

/// Microseconds on a clock that never steps and keeps running while the machine is suspended; none where there is no such
/// clock, and so no lease.
#[cfg(target_os = "linux")]
#[expect(clippy::unnecessary_wraps, reason = "other systems have none")]
pub(super) fn boottime() -> Option<i64> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Some(now.tv_sec * 1_000_000 + now.tv_nsec / 1_000)
}

/// None: no clock that counts suspension is known here.
#[cfg(not(target_os = "linux"))]
pub(super) fn boottime() -> Option<i64> {
    None
}
