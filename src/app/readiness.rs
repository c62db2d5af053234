//! Readiness: what the health service answers, and when the start is complete.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::service::{
    Services,
    health::{Health, Readiness},
};

/// Interval between two measurements, each of which is a round trip to the database.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between two measurements until the first one that finds the service ready.
const START_INTERVAL: Duration = Duration::from_millis(50);
/// Interval between two looks at the lease, which is in memory. A change is followed by a measurement at once.
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

/// Measures readiness until `stop`, for all who ask. The health service gets each change, and NOT_SERVING at the end.
pub async fn follow(services: Arc<Services>, reporter: HealthReporter, stop: CancellationToken) {
    let health = &services.health;
    let measuring = async {
        let mut state = State { ready: false, quiet_until: Instant::now() + START_TIMEOUT };
        let mut interval = START_INTERVAL;
        loop {
            // The lease may have ended meanwhile. That must show before the database answers, which may take seconds.
            state.report(&health.readiness(), &reporter).await;
            health.measure().await;
            state.report(&health.readiness(), &reporter).await;
            if state.ready {
                interval = MEASURE_INTERVAL;
            }
            pause(health, interval).await;
        }
    };
    stop.run_until_cancelled(measuring).await;
    set_serving(&reporter, false).await;
}

/// Waits until the service is ready, or a few seconds longer than that should take.
pub async fn wait_until_ready(health: &Health) {
    let _ = timeout(START_TIMEOUT, health.wait_until_ready()).await;
}

/// What was reported last.
struct State {
    ready: bool,
    /// Until then the log already says why the service is not ready.
    quiet_until: Instant,
}

impl State {
    async fn report(&mut self, readiness: &Readiness, reporter: &HealthReporter) {
        let changed = self.ready != readiness.is_ok();
        self.ready = readiness.is_ok();
        match readiness {
            Ok(()) if changed => tracing::info!("ready"),
            Err(why) if changed || Instant::now() >= self.quiet_until => {
                tracing::warn!(%why, "not ready");
                self.quiet_until = Instant::now() + REPEAT_INTERVAL;
            }
            _ => {}
        }
        if changed {
            set_serving(reporter, self.ready).await;
        }
    }
}

/// Waits for the next measurement: after `interval`, or at once when the lease begins or ends.
async fn pause(health: &Health, interval: Duration) {
    let (held, end) = (health.lease_holds(), Instant::now() + interval);
    while Instant::now() < end && health.lease_holds() == held {
        sleep(LEASE_INTERVAL).await;
    }
}
