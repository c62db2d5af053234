//! Switches that take one guard of the protocol away, so that a test can show that the guard is needed.
//!
//! Without the `faults` feature every guard stands and the switches compile to nothing.

/// Whether the guard of this name is taken away: by `KEYWARD_FAULTS` (a comma-separated list) at start, or by
/// [`disable`] on this thread.
#[cfg(any(feature = "faults", feature = "shuttle"))]
pub fn disabled(guard: &str) -> bool {
    use std::sync::LazyLock;
    static OFF: LazyLock<Vec<String>> = LazyLock::new(|| {
        let list = std::env::var("KEYWARD_FAULTS").unwrap_or_default();
        list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    });
    OFF.iter().any(|name| name == guard) || HERE.with_borrow(|here| here.contains(&guard))
}

#[cfg(any(feature = "faults", feature = "shuttle"))]
thread_local! {
    static HERE: std::cell::RefCell<Vec<&'static str>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Takes a guard away on this thread, until the answer is dropped.
#[cfg(any(feature = "faults", feature = "shuttle"))]
#[must_use = "the guard is back as soon as this is dropped"]
pub fn disable(guard: &'static str) -> impl Drop {
    struct Back;
    impl Drop for Back {
        fn drop(&mut self) {
            HERE.with_borrow_mut(Vec::pop);
        }
    }
    HERE.with_borrow_mut(|here| here.push(guard));
    Back
}

/// Waits where a test wants a step of the protocol to take long, so that what a guard keeps out has time to happen.
pub async fn inject_delay(place: &str) {
    if disabled(place) {
        tokio::time::sleep(INJECTED_DELAY).await;
    }
}

/// How long a step that lingers takes.
pub const INJECTED_DELAY: std::time::Duration = std::time::Duration::from_millis(500);

/// Every guard stands.
#[cfg(not(any(feature = "faults", feature = "shuttle")))]
#[inline(always)]
#[expect(clippy::inline_always, reason = "must cost nothing on the hot path")]
pub fn disabled(_: &str) -> bool {
    false
}
