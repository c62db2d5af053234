//! The outbox worker: claims deliveries that are due, and starts attempts within the scheduler's bounds.
//!
//! Any number of replicas run one at the same time. A claim expires, so the deliveries of a replica that was killed are
//! claimed by another; until then no other replica attempts them. No database transaction is open while a request is sent.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    attempt::{AttemptRunner, DeliveryRules, SETTLE_TIMEOUT, micros},
    client::{SendError, WebhookClient},
    deps::OutboxDeps,
    scheduler::HostScheduler,
};
use crate::{
    domain::{clock::Micros, egress::Target},
    store::events::{Claim, ClaimedDelivery},
};

/// How often due deliveries are claimed without a notification: retries, and deliveries that other replicas wrote.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The least time between two claims.
const MIN_POLL_GAP: Duration = Duration::from_millis(20);
/// Deliveries in one claim.
const MAX_CLAIM: usize = 32;
/// How often the outbox is measured.
const MEASURE_INTERVAL: Duration = Duration::from_secs(15);
/// At shutdown: timeout for each of releasing queued deliveries, finishing attempts, and ending those that did not
/// finish. All three together take less time than the stop of the process.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// The queue of deliveries without a valid target: their webhook was removed, or its URL is no longer allowed.
const NO_HOST: &str = "";

/// Delivers events to webhooks.
pub struct OutboxWorker {
    runner: Arc<AttemptRunner>,
    rules: DeliveryRules,
    scheduler: HostScheduler<QueuedDelivery>,
    attempts: JoinSet<()>,
}

/// A delivery in the queue of its host.
struct QueuedDelivery {
    delivery: ClaimedDelivery,
    target: Result<Target, SendError>,
    /// An attempt that starts later could outlast the claim.
    start_deadline: Instant,
}

impl OutboxWorker {
    /// A worker that has not started.
    pub fn new(deps: Arc<OutboxDeps>, client: WebhookClient, rules: DeliveryRules) -> Self {
        Self {
            scheduler: HostScheduler::new(rules.per_host, rules.concurrency, Arc::clone(&deps.clock)),
            runner: Arc::new(AttemptRunner::new(deps, client, rules.clone())),
            rules,
            attempts: JoinSet::new(),
        }
    }

    /// Delivers until `stop`, then gives running attempts a bounded time to finish.
    pub async fn run(mut self, stop: CancellationToken) {
        let deps = Arc::clone(&self.runner.deps);
        let mut polls = interval(POLL_INTERVAL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut measures = interval(MEASURE_INTERVAL);
        measures.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_claim = Instant::now();
        let mut more_due = true;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = self.attempts.join_next() => log_panic(ended),
                _ = polls.tick() => more_due = true,
                () = deps.deliveries.notified() => more_due = true,
                () = sleep_until(next_claim), if more_due && self.scheduler.free() > 0 => {
                    let started = Instant::now();
                    more_due = self.claim().await;
                    // Poll a slow database less often.
                    next_claim = Instant::now() + MIN_POLL_GAP.max(started.elapsed() * 2);
                }
                _ = measures.tick() => measure(&deps).await,
            }
            self.release_overdue().await;
            self.start_attempts();
        }
        self.shut_down().await;
    }

    /// Claims due deliveries and queues them. Returns whether more may be due.
    async fn claim(&mut self) -> bool {
        let limit = self.scheduler.free().min(MAX_CLAIM);
        let claimed_at = Instant::now();
        let now = self.runner.deps.clock.wall();
        let claim_length = self.rules.timeout * 2 + SETTLE_TIMEOUT;
        let busy: HashSet<String> = self.scheduler.busy_hosts().into_iter().collect();
        let claim = Claim {
            now,
            until: now.saturating_add(micros(claim_length)),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            busy_hosts: busy.iter().filter(|host| *host != NO_HOST).cloned().collect(),
        };
        let claimed = match self.runner.deps.store.claim_deliveries(claim).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::debug!(%error, "webhook deliveries could not be claimed");
                return false;
            }
        };
        let more_due = claimed.len() >= limit;
        let start_deadline = claimed_at + self.rules.timeout;
        let mut excess = Vec::new();
        for delivery in claimed {
            let target = self.runner.target(&delivery);
            let host = target.as_ref().map_or(NO_HOST, |target| &target.authority).to_owned();
            let queued = QueuedDelivery { delivery, target, start_deadline };
            // The claim excluded busy hosts by the stored host, but the webhook may have another host by now.
            if busy.contains(&host) {
                excess.push(queued);
            } else {
                self.scheduler.enqueue(host, queued);
            }
        }
        self.release_all(excess, micros(self.rules.timeout)).await;
        more_due
    }

    fn start_attempts(&mut self) {
        while let Some((slot, queued)) = self.scheduler.start_next() {
            let runner = Arc::clone(&self.runner);
            self.attempts.spawn(async move { runner.run(queued.delivery, queued.target, slot).await });
        }
    }

    /// Releases deliveries whose attempt would start too late. They become due again after deliveries to other hosts.
    async fn release_overdue(&mut self) {
        let now = Instant::now();
        let overdue = self.scheduler.take_overdue(|queued| queued.start_deadline <= now);
        self.release_all(overdue, micros(self.rules.timeout)).await;
    }

    /// Releases queued deliveries. Stops at the first failure: if the database is unavailable, the claims expire by
    /// themselves.
    async fn release_all(&self, queued: Vec<QueuedDelivery>, wait: Micros) {
        for QueuedDelivery { delivery, .. } in queued {
            if !self.runner.release(&delivery, wait).await {
                return;
            }
        }
    }

    async fn shut_down(mut self) {
        let queued = self.scheduler.take_overdue(|_| true);
        let _ = timeout(SHUTDOWN_TIMEOUT, self.release_all(queued, 0)).await;
        let attempts = &mut self.attempts;
        let _ = timeout(SHUTDOWN_TIMEOUT, async { while attempts.join_next().await.is_some() {} }).await;
        self.runner.cancel();
        let _ = timeout(SHUTDOWN_TIMEOUT, async { while attempts.join_next().await.is_some() {} }).await;
        attempts.shutdown().await;
    }
}

async fn measure(deps: &OutboxDeps) {
    match deps.store.outbox().await {
        Ok(outbox) => {
            let overdue = outbox.first_due.map_or(0, |due| deps.clock.wall() - due);
            let overdue = Duration::from_micros(u64::try_from(overdue).unwrap_or(0));
            deps.metrics.webhooks.outbox(outbox.pending, overdue);
        }
        Err(error) => tracing::debug!(%error, "the webhook outbox could not be measured"),
    }
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a webhook attempt panicked");
    }
}
