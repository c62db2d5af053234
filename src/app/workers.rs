//! What goes on beside calls: writing uses and refusals down, telling of expiries, sweeping limits, folding metrics, following readiness.

use std::{sync::Arc, time::Duration};

use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::build::Parts;
use crate::{
    config::Webhooks,
    service::{Services, health::Health},
    webhook::{
        DeliveryRules, OutboxDeps, OutboxWorker,
        client::{SystemResolver, WebhookClient},
    },
};

/// How often uses become due to be written: twice the promise that a use shows within 2 s.
const GATHER: Duration = Duration::from_secs(1);
/// The pace at which they are written where others share the database: small pieces, so that nothing waits behind them.
const PIECE: usize = 128;
const PAUSE: Duration = Duration::from_millis(10);
/// However many keys are in use, all of them are written within so many pieces, which grow with them: about 10 s.
const ROUND: usize = 800;
const SWEEP: Duration = Duration::from_secs(30);
const REFUSALS: Duration = Duration::from_secs(1);
/// A quarter of the promise that an expiry is told of within a minute.
const EXPIRIES: Duration = Duration::from_secs(15);
const UPKEEP: Duration = Duration::from_secs(5);
const READINESS: Duration = Duration::from_secs(1);
/// How long readiness waits for the database.
const PATIENCE: Duration = Duration::from_secs(2);

/// The names under which health is asked for: the server as a whole, and the services.
const HEALTH_NAMES: [&str; 3] = ["", "keyward.v1.KeyService", "keyward.v1.AuditService"];

/// Starts every worker. Health follows readiness until `stop`; the rest goes on until `end`, when no call is left.
pub fn start(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    end: &CancellationToken,
    parts: &Parts,
    health: HealthReporter,
) {
    let services = &parts.services;
    tasks.spawn(flush_usage(Arc::clone(services), end.clone()));
    every(tasks, end, &parts.limiter, SWEEP, |limiter| async move { limiter.sweep() });
    every(tasks, end, services, REFUSALS, |services| async move { services.jobs.flush_rate_limit_events().await });
    tasks.spawn(sweep_events(Arc::clone(services), stop.clone()));
    every(tasks, end, &services.metrics, UPKEEP, |metrics| async move { metrics.upkeep() });
    let (sessions, ended) = (Arc::clone(&parts.sessions), stop.clone());
    tasks.spawn(async move { ended.run_until_cancelled(sessions.keep_fresh()).await });
    tasks.spawn(follow_readiness(Arc::clone(services), health, stop.clone()));
}

/// Starts the delivery of webhooks, until `stop`.
pub fn deliver(tasks: &TaskTracker, stop: &CancellationToken, parts: &Parts, settings: &Webhooks) {
    let client = WebhookClient::new(settings.egress.clone(), Arc::new(SystemResolver), settings.timeout);
    let rules = DeliveryRules {
        timeout: settings.timeout,
        retries: settings.retries.clone(),
        concurrency: settings.concurrency,
        per_host: settings.per_host,
    };
    let services = &parts.services;
    let deps = Arc::new(OutboxDeps {
        store: Arc::clone(&parts.store),
        master_keys: Arc::clone(&parts.master_keys),
        deliveries: Arc::clone(&services.deliveries),
        ids: Arc::clone(&services.ids),
        clock: Arc::clone(&services.clock),
        entropy: Arc::clone(&services.entropy),
        metrics: Arc::clone(&services.metrics),
    });
    tasks.spawn(OutboxWorker::new(deps, client, rules).run(stop.clone()));
}

/// Runs `work` again and again, and a last time at the end.
fn every<T, F, W>(tasks: &TaskTracker, end: &CancellationToken, of: &Arc<T>, pause: Duration, work: F)
where
    T: Send + Sync + 'static,
    F: Fn(Arc<T>) -> W + Send + 'static,
    W: Future<Output = ()> + Send,
{
    let (of, end) = (Arc::clone(of), end.clone());
    tasks.spawn(async move {
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while end.run_until_cancelled(ticks.tick()).await.is_some() {
            work(Arc::clone(&of)).await;
        }
        work(of).await;
    });
}

/// Writes uses down until `end`, and then all that is left.
async fn flush_usage(services: Arc<Services>, end: CancellationToken) {
    // Where one process owns the database each piece costs a write to the disk, and nobody else waits.
    let (piece, pause) = if services.jobs.has_peers() { (PIECE, PAUSE) } else { (PIECE * 40, GATHER) };
    let mut ticks = interval(GATHER);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while end.run_until_cancelled(ticks.tick()).await.is_some() {
        let due = services.jobs.schedule_usage();
        let piece = piece.max(due / ROUND);
        let pieces = (GATHER.as_millis() / pause.as_millis()).max(1);
        for _ in 0..pieces {
            let left = services.jobs.flush_usage(piece).await;
            if left == 0 || end.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                break;
            }
        }
    }
    services.jobs.schedule_usage();
    while services.jobs.flush_usage(PIECE * 40).await > 0 {}
}

/// Until `stop`, and in the midst of a sweep if need be: the next one goes on from there.
async fn sweep_events(services: Arc<Services>, stop: CancellationToken) {
    let mut ticks = interval(EXPIRIES);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        stop.run_until_cancelled(services.jobs.sweep_events()).await;
    }
}

async fn follow_readiness(services: Arc<Services>, health: HealthReporter, stop: CancellationToken) {
    let mut ticks = interval(READINESS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was = false;
    while let Some(ready) = stop.run_until_cancelled(next_readiness(&mut ticks, &services.health)).await {
        if was != ready.is_ok() {
            match &ready {
                Ok(()) => tracing::info!("ready"),
                Err(why) => tracing::warn!(why, "not ready"),
            }
            was = ready.is_ok();
            set(&health, ready.is_ok()).await;
        }
    }
    set(&health, false).await;
}

async fn next_readiness(ticks: &mut Interval, health: &Health) -> Result<(), String> {
    ticks.tick().await;
    readiness(health).await
}

async fn readiness(health: &Health) -> Result<(), String> {
    timeout(PATIENCE, health.ready()).await.unwrap_or_else(|_| Err("the database did not answer in time".to_owned()))
}

/// Health as it is before anything is known.
pub async fn set(health: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in HEALTH_NAMES {
        health.set_service_status(name, status).await;
    }
}

/// Waits until the service is ready, or not for much longer than that should take.
pub async fn first_readiness(health: &Health) {
    for _ in 0..100 {
        if readiness(health).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
