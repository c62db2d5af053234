//! What goes on beside calls: writing uses and refusals down, telling of expiries, sweeping limits, folding metrics, following readiness.

use std::{sync::Arc, time::Duration};

use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    config::Webhooks,
    service::Service,
    webhook::{
        DeliveryRules, OutboxWorker,
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
    service: &Arc<Service>,
    health: HealthReporter,
) {
    tasks.spawn(write_uses_down(Arc::clone(service), end.clone()));
    every(tasks, end, service, SWEEP, |service| async move { service.limiter.sweep() });
    every(tasks, end, service, REFUSALS, |service| async move { service.write_refusals_down().await });
    tasks.spawn(sweep_events(Arc::clone(service), stop.clone()));
    every(tasks, end, service, UPKEEP, |service| async move { service.metrics.upkeep() });
    let (sessions, ended) = (Arc::clone(service), stop.clone());
    tasks.spawn(async move { ended.run_until_cancelled(sessions.sessions.keep_fresh()).await });
    tasks.spawn(follow_readiness(Arc::clone(service), health, stop.clone()));
}

/// Starts the delivery of webhooks, until `stop`.
pub fn deliver(tasks: &TaskTracker, stop: &CancellationToken, service: &Arc<Service>, settings: &Webhooks) {
    let client = WebhookClient::new(settings.egress.clone(), Arc::new(SystemResolver), settings.timeout);
    let rules = DeliveryRules {
        timeout: settings.timeout,
        retries: settings.retries.clone(),
        concurrency: settings.concurrency,
        per_host: settings.per_host,
    };
    tasks.spawn(OutboxWorker::new(Arc::clone(service), client, rules).run(stop.clone()));
}

/// Runs `work` again and again, and a last time at the end.
fn every<F, W>(tasks: &TaskTracker, end: &CancellationToken, service: &Arc<Service>, pause: Duration, work: F)
where
    F: Fn(Arc<Service>) -> W + Send + 'static,
    W: Future<Output = ()> + Send,
{
    let (service, end) = (Arc::clone(service), end.clone());
    tasks.spawn(async move {
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while end.run_until_cancelled(ticks.tick()).await.is_some() {
            work(Arc::clone(&service)).await;
        }
        work(service).await;
    });
}

/// Writes uses down until `end`, and then all that is left.
async fn write_uses_down(service: Arc<Service>, end: CancellationToken) {
    // Where one process owns the database each piece costs a write to the disk, and nobody else waits.
    let (piece, pause) = if service.replica.has_peers() { (PIECE, PAUSE) } else { (PIECE * 40, GATHER) };
    let mut ticks = interval(GATHER);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while end.run_until_cancelled(ticks.tick()).await.is_some() {
        let due = service.replica.usage.schedule();
        let piece = piece.max(due / ROUND);
        let pieces = (GATHER.as_millis() / pause.as_millis()).max(1);
        for _ in 0..pieces {
            let left = service.write_uses_down(piece).await;
            if left == 0 || end.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                break;
            }
        }
    }
    service.replica.usage.schedule();
    while service.write_uses_down(PIECE * 40).await > 0 {}
}

/// Until `stop`, and in the midst of a sweep if need be: the next one goes on from there.
async fn sweep_events(service: Arc<Service>, stop: CancellationToken) {
    let mut ticks = interval(EXPIRIES);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        stop.run_until_cancelled(service.sweep_events()).await;
    }
}

async fn follow_readiness(service: Arc<Service>, health: HealthReporter, stop: CancellationToken) {
    let mut ticks = interval(READINESS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was = false;
    while let Some(ready) = stop.run_until_cancelled(next_readiness(&mut ticks, &service)).await {
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

async fn next_readiness(ticks: &mut Interval, service: &Service) -> Result<(), String> {
    ticks.tick().await;
    readiness(service).await
}

async fn readiness(service: &Service) -> Result<(), String> {
    timeout(PATIENCE, service.ready()).await.unwrap_or_else(|_| Err("the database did not answer in time".to_owned()))
}

/// Health as it is before anything is known.
pub async fn set(health: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in HEALTH_NAMES {
        health.set_service_status(name, status).await;
    }
}

/// Waits until the service is ready, or not for much longer than that should take.
pub async fn first_readiness(service: &Service) {
    for _ in 0..100 {
        if readiness(service).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
