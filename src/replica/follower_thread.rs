//! Runs a follower on a thread and runtime of its own, so that load elsewhere never delays a renewal.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::time::{sleep, timeout};

use super::follower::{Follower, RETRY_DELAY};
use crate::store::change_feed::ChangeFeed;

/// How long a follower may take to leave when the service stops. After that, its lease expires by itself.
pub(crate) const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Starts the thread. `make` makes a follower and a future that runs beside it. A follower that panics is replaced by a
/// new one, which joins again.
///
/// # Errors
///
/// The operating system's error if the thread cannot be started.
pub fn spawn<F: ChangeFeed + 'static, B: Future<Output = ()>>(
    make: impl Fn() -> (Follower<F>, B) + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("follower".to_owned()).spawn(move || {
        loop {
            let (follower, beside) = make();
            let lease = Arc::clone(&follower.lease);
            let follow = AssertUnwindSafe(|| runtime.block_on(run_until_stopped(follower, beside)));
            let Err(_) = catch_unwind(follow) else { return };
            // Which changes had been applied is unknown after a panic, so the cache may no longer answer.
            lease.end();
            tracing::error!("follower panicked, starting another one");
            std::thread::sleep(RETRY_DELAY);
        }
    })
}

/// Runs a follower until it is stopped, and then for at most [`LEAVE_TIMEOUT`].
async fn run_until_stopped<F: ChangeFeed>(follower: Follower<F>, beside: impl Future<Output = ()>) {
    let stop = follower.stop.clone();
    let leave_timeout = async {
        stop.cancelled().await;
        sleep(LEAVE_TIMEOUT).await;
    };
    tokio::select! {
        () = follower.run() => {}
        () = leave_timeout => {}
        () = beside => {}
    }
}

/// Waits for a follower's thread to exit without blocking the executor.
pub async fn wait_for_exit(thread: std::thread::JoinHandle<()>) {
    let _ = timeout(LEAVE_TIMEOUT * 2, tokio::task::spawn_blocking(move || thread.join())).await;
}
