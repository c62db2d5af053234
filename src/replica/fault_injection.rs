//! Fault switches: each one disables one guard of the protocol, so that a test can show that the guard is needed.
//!
//! Without the `faults` feature the switches compile to nothing and every guard is active.

/// Returns whether the named guard is disabled, either by `KEYWARD_FAULTS` (a comma-separated list, read once) or by
/// [`disable`] on this thread.
#[cfg(any(feature = "faults", feature = "shuttle"))]
pub fn disabled(guard: &str) -> bool {
    use std::sync::LazyLock;
    static BY_ENVIRONMENT: LazyLock<Vec<String>> = LazyLock::new(|| {
        let list = std::env::var("KEYWARD_FAULTS").unwrap_or_default();
        list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    });
    BY_ENVIRONMENT.iter().any(|name| name == guard) || ON_THIS_THREAD.with_borrow(|guards| guards.contains(&guard))
}

#[cfg(any(feature = "faults", feature = "shuttle"))]
thread_local! {
    static ON_THIS_THREAD: std::cell::RefCell<Vec<&'static str>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Disables a guard on this thread until the returned value is dropped.
#[cfg(any(feature = "faults", feature = "shuttle"))]
#[must_use = "the guard is enabled again as soon as this is dropped"]
pub fn disable(guard: &'static str) -> impl Drop {
    struct Enable;
    impl Drop for Enable {
        fn drop(&mut self) {
            ON_THIS_THREAD.with_borrow_mut(Vec::pop);
        }
    }
    ON_THIS_THREAD.with_borrow_mut(|guards| guards.push(guard));
    Enable
}

/// Delays a step of the protocol if the named switch is set. The delay leaves time for the interleaving that a guard
/// prevents.
pub(crate) async fn inject_delay(switch: &str) {
    inject_delays(switch, 1).await;
}

/// Like [`inject_delay`], for several delays in a row.
pub(crate) async fn inject_delays(switch: &str, count: u32) {
    if disabled(switch) {
        tokio::time::sleep(INJECTED_DELAY * count).await;
    }
}

/// Length of one injected delay.
pub(crate) const INJECTED_DELAY: std::time::Duration = std::time::Duration::from_millis(500);

/// Panics once in this process, a little after its first call, if `panic_<name>` is set. Never returns.
pub(crate) async fn panic_once(name: &str) {
    if panic_requested(name) {
        tokio::time::sleep(INJECTED_DELAY).await;
        inject_panic(name);
    }
    std::future::pending::<()>().await;
}

/// Panics once in this process if `panic_<name>` is set.
pub(crate) fn inject_panic(name: &str) {
    #[cfg(any(feature = "faults", feature = "shuttle"))]
    {
        static PANICKED: parking_lot::Mutex<Vec<String>> = parking_lot::Mutex::new(Vec::new());
        let mut panicked = PANICKED.lock();
        if panic_requested(name) && !panicked.iter().any(|known| known == name) {
            panicked.push(name.to_owned());
            drop(panicked);
            panic!("the fault switch panic_{name} is set");
        }
    }
    #[cfg(not(any(feature = "faults", feature = "shuttle")))]
    let _ = name;
}

#[cfg(any(feature = "faults", feature = "shuttle"))]
fn panic_requested(name: &str) -> bool {
    disabled(&format!("panic_{name}"))
}

#[cfg(not(any(feature = "faults", feature = "shuttle")))]
fn panic_requested(_: &str) -> bool {
    false
}

/// Without the features no guard is ever disabled.
#[cfg(not(any(feature = "faults", feature = "shuttle")))]
#[inline(always)]
#[expect(clippy::inline_always, reason = "must cost nothing on the hot path")]
pub fn disabled(_: &str) -> bool {
    false
}
