//! Runs a follower on a thread and runtime of its own, so that load elsewhere never delays a renewal.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::follower::Follower;
use crate::store::change_feed::ChangeFeed;

/// How long a follower may take to leave when the service stops. After that, its lease expires by itself.
pub(crate) const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// How much longer than that the thread may take to end.
const EXIT_GRACE: Duration = Duration::from_millis(100);

/// The running thread.
pub struct FollowerThread {
    ended: oneshot::Receiver<()>,
}

/// Starts the thread. `make` makes a follower and a future that runs concurrently. A follower that panics is replaced by a
/// new one, which joins again, once `pause` returns.
///
/// # Errors
///
/// The operating system's error if the thread cannot be started.
pub fn spawn<F: ChangeFeed + 'static, B: Future<Output = ()>>(
    make: impl Fn() -> (Follower<F>, B) + Send + 'static,
    mut pause: impl FnMut() + Send + 'static,
) -> std::io::Result<FollowerThread> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ending, ended) = oneshot::channel();
    std::thread::Builder::new().name("follower".to_owned()).spawn(move || {
        loop {
            let (follower, concurrent) = make();
            let lease = Arc::clone(&follower.lease);
            let follow = AssertUnwindSafe(|| runtime.block_on(run_until_stopped(follower, concurrent)));
            if catch_unwind(follow).is_ok() {
                break;
            }
            // Which changes had been applied is unknown after a panic, so the cache may not answer until another follower
            // has joined, which clears it.
            lease.end();
            pause();
        }
        let _ = ending.send(());
    })?;
    Ok(FollowerThread { ended })
}

/// Runs a follower until it is stopped, and then for at most [`LEAVE_TIMEOUT`].
async fn run_until_stopped<F: ChangeFeed>(follower: Follower<F>, concurrent: impl Future<Output = ()>) {
    let (stop, lease) = (follower.stop.clone(), Arc::clone(&follower.lease));
    let leave_timeout = async {
        stop.cancelled().await;
        sleep(LEAVE_TIMEOUT).await;
    };
    tokio::select! {
        () = follower.run() => {}
        () = leave_timeout => lease.end(),
        () = concurrent => {}
    }
}

impl FollowerThread {
    /// Waits for the thread to end, after it was stopped.
    pub async fn wait_for_exit(self) {
        let _ = timeout(LEAVE_TIMEOUT + EXIT_GRACE, self.ended).await;
    }
}
