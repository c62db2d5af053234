//! Readiness: what the health service answers, and when the start is complete.

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt as _;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::service::{
    Services,
    health::{Health, Need, NotReady, Readiness, Ready},
};

/// Interval between two measurements until the first one that finds the service ready.
const START_INTERVAL: Duration = Duration::from_millis(50);
/// Interval between two reads of the lease, which is in memory. A change of the lease causes a measurement at once.
const LEASE_INTERVAL: Duration = Duration::from_millis(50);
/// A cause that lasts is logged again after this time.
const REPEAT_INTERVAL: Duration = Duration::from_secs(30);
/// How long the start waits until the service is ready.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// The names that the health service answers for: the server as a whole, and each gRPC service.
const HEALTH_NAMES: [&str; 3] = ["", "keyward.v1.KeyService", "keyward.v1.AuditService"];

/// Sets what the health service answers.
pub async fn set_serving(health: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in HEALTH_NAMES {
        health.set_service_status(name, status).await;
    }
}

/// Measures readiness until `stop`; probes and the health service use the result. The health service gets each change,
/// and NOT_SERVING at the end.
pub async fn follow(services: Arc<Services>, reporter: HealthReporter, stop: CancellationToken) {
    let health = &services.health;
    // A run after a panic must not leave the answers of the one before.
    set_serving(&reporter, false).await;
    let measuring = async {
        let mut state = State { ready: None, quiet_until: Instant::now() + START_TIMEOUT };
        let mut interval = START_INTERVAL;
        loop {
            // The lease may have ended meanwhile. That must show before the database answers, which may take seconds.
            state.report(&health.readiness(Need::Service), &reporter).await;
            health.measure().await;
            state.report(&health.readiness(Need::Service), &reporter).await;
            if state.ready.is_some() {
                interval = health.measure_interval();
            }
            wait_for_next(health, interval).await;
        }
    };
    let ended = AssertUnwindSafe(stop.run_until_cancelled(measuring)).catch_unwind().await;
    set_serving(&reporter, false).await;
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
}

/// Waits until the service is ready, or a few seconds longer than that should take.
pub async fn wait_until_ready(health: &Health) {
    let _ = timeout(START_TIMEOUT, health.wait_until_ready()).await;
}

/// What was reported last.
struct State {
    /// What can be served; none if nothing can.
    ready: Option<Ready>,
    /// Until then a cause that is logged already is not logged again.
    quiet_until: Instant,
}

impl State {
    async fn report(&mut self, readiness: &Readiness, reporter: &HealthReporter) {
        let was_ready = self.ready.is_some();
        match self.note(readiness, Instant::now()) {
            None => {}
            Some(Line::Ready) => tracing::info!("ready"),
            Some(Line::WithoutWrites(why)) => tracing::warn!(why, "ready, but there are no writes"),
            Some(Line::NotReady(why)) => tracing::warn!(%why, "not ready"),
        }
        if self.ready.is_some() != was_ready {
            set_serving(reporter, self.ready.is_some()).await;
        }
    }

    /// Notes what can be served. Returns the line to log: at each change, and again while something is missing for long.
    fn note<'a>(&mut self, readiness: &'a Readiness, now: Instant) -> Option<Line<'a>> {
        let ready = readiness.as_ref().ok().copied();
        let changed = self.ready != ready;
        self.ready = ready;
        let line = match readiness {
            Ok(Ready::All) => return changed.then_some(Line::Ready),
            Ok(Ready::WithoutWrites(why)) => Line::WithoutWrites(why),
            Err(why) => Line::NotReady(why),
        };
        let due = changed || now >= self.quiet_until;
        if due {
            self.quiet_until = now + REPEAT_INTERVAL;
        }
        due.then_some(line)
    }
}

/// A line of the log.
#[derive(Debug)]
enum Line<'a> {
    Ready,
    WithoutWrites(&'static str),
    NotReady(&'a NotReady),
}

/// Waits for the next measurement: after `interval`, or at once when the lease begins or ends, or a worker is missing or
/// runs again.
async fn wait_for_next(health: &Health, interval: Duration) {
    let (before, end) = (health.state(), Instant::now() + interval);
    while Instant::now() < end && health.state() == before {
        sleep(LEASE_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_ready() -> Readiness {
        Err(NotReady::because("The database cannot be reached"))
    }

    #[test]
    fn a_cause_that_lasts_is_logged_again_every_half_minute() {
        let start = Instant::now();
        let mut state = State { ready: None, quiet_until: start + START_TIMEOUT };
        let mut logged = |readiness: &Readiness, after: u64| {
            state.note(readiness, start + Duration::from_secs(after)).map(|line| match line {
                Line::Ready => "ready",
                Line::WithoutWrites(_) => "without writes",
                Line::NotReady(_) => "not ready",
            })
        };
        // During the start nothing is logged here, because the start logs what it waits for.
        assert_eq!((logged(&not_ready(), 1), logged(&not_ready(), 4)), (None, None));
        assert_eq!(logged(&not_ready(), 5), Some("not ready"));
        let lines: Vec<_> = (6..=94).filter_map(|second| logged(&not_ready(), second)).collect();
        assert_eq!(lines, ["not ready"; 2], "after 35 s and after 65 s");
        // Each change is logged at once, and once.
        assert_eq!(logged(&Ok(Ready::All), 95), Some("ready"));
        assert_eq!(logged(&Ok(Ready::All), 999), None);
        let without = Ok(Ready::WithoutWrites("The database takes no writes"));
        assert_eq!(logged(&without, 1_000), Some("without writes"));
        assert_eq!((logged(&without, 1_029), logged(&without, 1_030)), (None, Some("without writes")));
        assert_eq!(logged(&not_ready(), 1_031), Some("not ready"));
    }
}
