//! Keeps workers running: one that panics is started again.
//!
//! A missing worker is visible: a panic is logged and counted, and the service is not ready until the worker runs
//! again.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{replica::fault_injection, telemetry::Metrics};

/// Pause before a worker that has panicked runs again; doubled with each further panic.
const MIN_BACKOFF: Duration = Duration::from_millis(250);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// A worker that ran for this long has recovered: its next panic counts as the first one.
const RECOVERED_AFTER: Duration = Duration::from_mins(1);

/// Keeps workers running.
pub struct Supervisor {
    metrics: Arc<Metrics>,
    missing: Mutex<Vec<&'static str>>,
}

/// A worker that does not run; until this is dropped, the service is not ready.
pub struct Missing<'a> {
    supervisor: &'a Supervisor,
    name: &'static str,
}

impl Drop for Missing<'_> {
    fn drop(&mut self) {
        let mut missing = self.supervisor.missing.lock();
        if let Some(at) = missing.iter().position(|name| *name == self.name) {
            missing.swap_remove(at);
        }
    }
}

/// The pauses between the runs of one worker.
#[derive(Debug)]
pub struct RestartBackoff {
    next: Duration,
    started: Instant,
}

impl RestartBackoff {
    /// The worker starts for the first time.
    pub fn new(now: Instant) -> Self {
        Self { next: MIN_BACKOFF, started: now }
    }

    /// The pause after a panic.
    pub fn pause(&mut self, now: Instant) -> Duration {
        if now.duration_since(self.started) >= RECOVERED_AFTER {
            self.next = MIN_BACKOFF;
        }
        let pause = self.next;
        self.next = (pause * 2).min(MAX_BACKOFF);
        self.started = now + pause;
        pause
    }
}

impl Supervisor {
    /// No worker is missing.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, missing: Mutex::default() }
    }

    /// Runs what `make` makes until it ends by itself. If it panics, it is made again after a pause. Once `stop` is
    /// cancelled it gets one more run without a pause, to flush what is left.
    pub async fn keep_running<F>(&self, name: &'static str, stop: &CancellationToken, mut make: impl FnMut() -> F)
    where
        F: Future<Output = ()>,
    {
        let mut backoff = RestartBackoff::new(Instant::now());
        loop {
            let stopping = stop.is_cancelled();
            let run = async {
                tokio::select! {
                    () = make() => {}
                    () = fault_injection::panic_once(name) => {}
                }
            };
            if AssertUnwindSafe(run).catch_unwind().await.is_ok() {
                return;
            }
            let _missing = self.panicked(name);
            if stopping {
                return;
            }
            stop.run_until_cancelled(sleep(backoff.pause(Instant::now()))).await;
        }
    }

    /// Logs and counts the panic of a worker, which is missing until the value is dropped.
    pub fn panicked(&self, name: &'static str) -> Missing<'_> {
        self.missing.lock().push(name);
        tracing::error!(worker = name, "worker panicked, restarting");
        self.metrics.worker_panicked(name);
        Missing { supervisor: self, name }
    }

    /// A worker that does not run now, if there is one.
    pub fn missing(&self) -> Option<&'static str> {
        self.missing.lock().first().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::domain::keyspace::Registry;

    fn supervisor() -> Supervisor {
        Supervisor::new(Arc::new(Metrics::new(&Registry::new(Vec::new()))))
    }

    #[tokio::test]
    async fn a_worker_that_panics_is_missing_and_runs_again() {
        let (supervisor, stop, runs) = (supervisor(), CancellationToken::new(), AtomicUsize::new(0));
        let work = supervisor.keep_running("work", &stop, || async {
            assert!(runs.fetch_add(1, Ordering::SeqCst) >= 2, "the test asked for a panic");
        });
        let watch = async {
            while supervisor.missing() != Some("work") {
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(work, watch);
        assert_eq!((runs.load(Ordering::SeqCst), supervisor.missing()), (3, None));
        assert!(
            supervisor
                .metrics
                .render(crate::telemetry::GaugeSnapshot::default())
                .contains("keyward_worker_panics_total{worker=\"work\"} 2")
        );
    }

    #[tokio::test]
    async fn a_worker_that_panics_at_the_stop_gets_one_more_run_and_no_more() {
        let (supervisor, stop, runs) = (supervisor(), CancellationToken::new(), AtomicUsize::new(0));
        let work = supervisor.keep_running("work", &stop, || async {
            stop.cancel();
            runs.fetch_add(1, Ordering::SeqCst);
            panic!("the test asked for a panic");
        });
        tokio::time::timeout(Duration::from_secs(30), work).await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_start_anew_once_a_worker_has_recovered() {
        let start = Instant::now();
        let (mut backoff, mut now) = (RestartBackoff::new(start), start);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let pause = backoff.pause(now);
            pauses.push(pause);
            now += pause;
        }
        assert_eq!(pauses[..3], [MIN_BACKOFF, MIN_BACKOFF * 2, MIN_BACKOFF * 4]);
        assert_eq!(pauses[7], MAX_BACKOFF);
        assert_eq!(backoff.pause(now + RECOVERED_AFTER), MIN_BACKOFF);
    }
}
