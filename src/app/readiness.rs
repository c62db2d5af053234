//! Readiness: what the health service answers, and when the start is complete.

use std::{sync::Arc, time::Duration};

use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::service::{Services, health::Health};

const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a check waits for the database.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How often, and with which delay, the start checks whether the service is ready.
const START_CHECKS: usize = 100;
const START_CHECK_DELAY: Duration = Duration::from_millis(50);
/// The names that the health service answers for: the server as a whole, and each gRPC service.
const HEALTH_NAMES: [&str; 3] = ["", "keyward.v1.KeyService", "keyward.v1.AuditService"];

/// Sets what the health service answers.
pub async fn set_serving(health: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in HEALTH_NAMES {
        health.set_service_status(name, status).await;
    }
}

/// Lets the health service follow readiness until `stop`, and then answer NOT_SERVING.
pub async fn follow(services: Arc<Services>, health: HealthReporter, stop: CancellationToken) {
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_ready = false;
    while let Some(ready) = stop.run_until_cancelled(next_check(&mut ticks, &services.health)).await {
        if was_ready != ready.is_ok() {
            match &ready {
                Ok(()) => tracing::info!("ready"),
                Err(why) => tracing::warn!(why, "not ready"),
            }
            was_ready = ready.is_ok();
            set_serving(&health, was_ready).await;
        }
    }
    set_serving(&health, false).await;
}

/// Waits until the service is ready, or a few seconds longer than that should take.
pub async fn wait_until_ready(health: &Health) {
    for _ in 0..START_CHECKS {
        if check(health).await.is_ok() {
            return;
        }
        sleep(START_CHECK_DELAY).await;
    }
}

async fn next_check(ticks: &mut Interval, health: &Health) -> Result<(), String> {
    ticks.tick().await;
    check(health).await
}

async fn check(health: &Health) -> Result<(), String> {
    timeout(CHECK_TIMEOUT, health.ready())
        .await
        .unwrap_or_else(|_| Err("the database did not answer in time".to_owned()))
}
