//! Workers that run beside calls: usage and rate limit events are flushed, expiry events emitted, old events deleted, rate
//! limits swept, metrics folded, the keys of session issuers refreshed, and webhooks delivered.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::parts::Parts;
use crate::{
    config::Webhooks,
    service::jobs::Jobs,
    webhook::{
        DeliveryRules, OutboxDeps, OutboxWorker,
        client::{DnsResolver, WebhookClient},
    },
};

/// How often usage becomes due to be flushed: twice as often as the promise that a use shows within 2 s needs.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// Keys in one usage statement where replicas share the database: small, so that no other statement waits behind it.
const USAGE_BATCH: usize = 128;
/// Keys in one usage statement where one process owns the database, and when the process stops: each statement costs a
/// write to the disk, and nothing else waits.
const LARGE_USAGE_BATCH: usize = USAGE_BATCH * 40;
/// The pause between two usage statements where replicas share the database.
const USAGE_BATCH_DELAY: Duration = Duration::from_millis(10);
/// All keys in use are flushed within this many batches, about 10 s: with more keys the batches grow.
const MAX_BATCHES: usize = 800;
const LIMIT_SWEEP_INTERVAL: Duration = Duration::from_secs(30);
const RATE_LIMIT_EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// A quarter of the promise that an expiry event is emitted within a minute.
const EVENT_SWEEP_INTERVAL: Duration = Duration::from_secs(15);
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Starts the workers that do not depend on the configuration. Those that flush run until `end`, when no call is left; the
/// others until `stop`.
pub fn start(tasks: &TaskTracker, stop: &CancellationToken, end: &CancellationToken, parts: &Parts) {
    let services = &parts.services;
    tasks.spawn(flush_usage(Arc::clone(&services.jobs), end.clone()));
    every(
        RATE_LIMIT_EVENT_INTERVAL,
        tasks,
        end,
        &services.jobs,
        |jobs| async move { jobs.flush_rate_limit_events().await },
    );
    every(LIMIT_SWEEP_INTERVAL, tasks, end, &parts.limiter, |limiter| async move { limiter.sweep() });
    every(METRICS_UPKEEP_INTERVAL, tasks, end, &services.metrics, |metrics| async move { metrics.upkeep() });
    tasks.spawn(sweep_events(Arc::clone(&services.jobs), stop.clone()));
    let (sessions, stop) = (Arc::clone(&parts.sessions), stop.clone());
    tasks.spawn(async move { stop.run_until_cancelled(sessions.keep_fresh()).await });
}

/// Starts the delivery of webhooks, until `stop`.
pub fn deliver_webhooks(tasks: &TaskTracker, stop: &CancellationToken, parts: &Parts, settings: &Webhooks) {
    let client = WebhookClient::new(settings.egress.clone(), Arc::new(DnsResolver::default()), settings.timeout);
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

/// Runs `work` at each interval until `end`, and then once more.
fn every<T, F, W>(period: Duration, tasks: &TaskTracker, end: &CancellationToken, subject: &Arc<T>, work: F)
where
    T: Send + Sync + 'static,
    F: Fn(Arc<T>) -> W + Send + 'static,
    W: Future<Output = ()> + Send,
{
    let (subject, end) = (Arc::clone(subject), end.clone());
    tasks.spawn(async move {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while end.run_until_cancelled(ticks.tick()).await.is_some() {
            work(Arc::clone(&subject)).await;
        }
        work(subject).await;
    });
}

/// Flushes usage until `end`, and then all that is left.
async fn flush_usage(jobs: Arc<Jobs>, end: CancellationToken) {
    let (batch, delay) =
        if jobs.has_peers() { (USAGE_BATCH, USAGE_BATCH_DELAY) } else { (LARGE_USAGE_BATCH, FLUSH_INTERVAL) };
    let mut ticks = interval(FLUSH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while end.run_until_cancelled(ticks.tick()).await.is_some() {
        let due = jobs.schedule_usage();
        let batch = batch.max(due / MAX_BATCHES);
        let batches = (FLUSH_INTERVAL.as_millis() / delay.as_millis()).max(1);
        for _ in 0..batches {
            let left = jobs.flush_usage(batch).await;
            if left == 0 || end.run_until_cancelled(sleep(delay)).await.is_none() {
                break;
            }
        }
    }
    jobs.schedule_usage();
    while jobs.flush_usage(LARGE_USAGE_BATCH).await > 0 {}
}

/// Sweeps events until `stop`. A sweep may be interrupted: the next one continues where it stopped.
async fn sweep_events(jobs: Arc<Jobs>, stop: CancellationToken) {
    let mut ticks = interval(EVENT_SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        stop.run_until_cancelled(jobs.sweep_events()).await;
    }
}
