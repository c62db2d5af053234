//! Switches that take one guard of the protocol away, so that a test can show that the guard is needed.
//!
//! Without the `faults` feature every guard stands and the switches compile to nothing.

/// Whether the guard of this name is taken away, by `KEYWARD_FAULTS` (a comma-separated list) at start.
#[cfg(feature = "faults")]
pub fn off(guard: &str) -> bool {
    use std::sync::LazyLock;
    static OFF: LazyLock<Vec<String>> = LazyLock::new(|| {
        let list = std::env::var("KEYWARD_FAULTS").unwrap_or_default();
        list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    });
    OFF.iter().any(|name| name == guard)
}

/// Every guard stands.
#[cfg(not(feature = "faults"))]
#[inline(always)]
#[expect(clippy::inline_always, reason = "must cost nothing on the hot path")]
pub fn off(_: &str) -> bool {
    false
}
