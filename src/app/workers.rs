//! Workers that run in the background: usage and rate limit events are flushed, expiry events emitted, old events
//! deleted, rate limits swept, the store of limits connected, metrics folded, the keys of session issuers refreshed,
//! webhooks delivered, and readiness measured. The supervisor starts one that panics again.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::server::HealthReporter;

use super::{parts::Parts, readiness};
use crate::{
    config::Webhooks,
    service::{Services, jobs::Jobs},
    transport::tls::Tls,
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

/// Starts the workers that run with every configuration. Those that flush run until `end`, when no call is left; the
/// others until `stop`.
pub fn start(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    end: &CancellationToken,
    parts: &Parts,
    summary_period: Duration,
) {
    let Parts { services, replica, limiter, sessions, .. } = parts;
    let ending = Spawner { tasks, services, stop: end };
    ending.spawn("revocation_reader", replica, |replica, end| async move {
        end.run_until_cancelled(replica.read_replicas()).await;
    });
    ending.spawn("rate_limit_store", limiter, |limiter, end| async move {
        end.run_until_cancelled(limiter.keep_connected()).await;
    });
    ending.spawn("usage_flush", &services.jobs, flush_usage);
    ending.every(RATE_LIMIT_EVENT_INTERVAL, "rate_limit_events", &services.jobs, |jobs| async move {
        jobs.flush_rate_limit_events().await;
    });
    ending.every(summary_period, "audit_trail", &services.trail, |trail| async move { trail.flush().await });
    ending.every(LIMIT_SWEEP_INTERVAL, "limit_sweep", limiter, |limiter| async move { limiter.sweep() });
    ending.every(METRICS_UPKEEP_INTERVAL, "metrics_upkeep", &services.metrics, |metrics| async move {
        metrics.upkeep();
    });
    let stopping = Spawner { tasks, services, stop };
    stopping.spawn("event_sweep", &services.jobs, sweep_events);
    stopping.spawn("session_keys", sessions, |sessions, stop| async move {
        stop.run_until_cancelled(sessions.keep_fresh()).await;
    });
}

/// Starts the worker that measures readiness, until `stop`.
pub fn watch_readiness(tasks: &TaskTracker, stop: &CancellationToken, parts: &Parts, health: HealthReporter) {
    let services = &parts.services;
    Spawner { tasks, services, stop }
        .spawn("readiness", services, move |services, stop| readiness::follow(services, health.clone(), stop));
}

/// Starts the worker that reads the TLS files again when they change, until `stop`.
pub fn reload_tls(tasks: &TaskTracker, stop: &CancellationToken, parts: &Parts, tls: &Arc<Tls>) {
    Spawner { tasks, services: &parts.services, stop }.spawn("tls_reload", tls, Tls::reload_on_change);
}

/// Starts the delivery of webhooks, until `stop`.
pub fn deliver_webhooks(tasks: &TaskTracker, stop: &CancellationToken, parts: &Parts, settings: &Webhooks) {
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
    let (egress, timeout) = (settings.egress.clone(), settings.timeout);
    Spawner { tasks, services, stop }.spawn("webhooks", &deps, move |deps, stop| {
        let client = WebhookClient::new(egress.clone(), Arc::new(DnsResolver::default()), timeout);
        OutboxWorker::new(deps, client, rules.clone()).run(stop)
    });
}

/// Spawns workers that the supervisor keeps running until `stop`.
struct Spawner<'a> {
    tasks: &'a TaskTracker,
    services: &'a Arc<Services>,
    stop: &'a CancellationToken,
}

impl Spawner<'_> {
    /// Runs `work`, which gets `stop`.
    fn spawn<T, F, W>(&self, name: &'static str, subject: &Arc<T>, work: F)
    where
        T: Send + Sync + 'static,
        F: Fn(Arc<T>, CancellationToken) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let (services, subject, stop) = (Arc::clone(self.services), Arc::clone(subject), self.stop.clone());
        self.tasks.spawn(async move {
            services.supervisor.keep_running(name, &stop, || work(Arc::clone(&subject), stop.clone())).await;
        });
    }

    /// Runs `work` at each interval until `stop`, and then once more.
    fn every<T, F, W>(&self, period: Duration, name: &'static str, subject: &Arc<T>, work: F)
    where
        T: Send + Sync + 'static,
        F: Fn(Arc<T>) -> W + Clone + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        self.spawn(name, subject, move |subject, stop| {
            let work = work.clone();
            async move {
                let mut ticks = interval(period);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                    work(Arc::clone(&subject)).await;
                }
                work(subject).await;
            }
        });
    }
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
