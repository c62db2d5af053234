//! Tells webhooks what happened: takes deliveries that are due, attempts them, and writes down what came of it.
//!
//! Any number of replicas do so beside each other. A claim ends by itself, so that what a killed replica held is taken by
//! another one; until then it is nobody else's. Nothing is sent while a database transaction is open.

mod attempt;
pub mod client;
mod message;
mod scheduler;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::scheduler::{Hosts, Ticket};
use crate::{
    domain::clock::Micros,
    service::Service,
    store::events::{Claim, ClaimedDelivery},
    webhook::client::Courier,
};

/// How often deliveries are looked for that nobody here has given a hint of: retries, and the work of other replicas.
const POLL: Duration = Duration::from_secs(1);
/// The least time between two looks.
const BREATH: Duration = Duration::from_millis(20);
/// Deliveries that are taken at once.
const BATCH: usize = 32;
/// How often the outbox is measured.
const MEASURE: Duration = Duration::from_secs(15);

/// How long attempts under way may take once the program ends.
const GRACE: Duration = Duration::from_secs(3);

/// How deliveries are made.
#[derive(Debug, Clone)]
pub struct Rules {
    /// How long an attempt may take in all.
    pub timeout: Duration,
    /// The waits after the first attempt and each further one.
    pub retries: Vec<Micros>,
    /// Attempts at the same time.
    pub concurrency: usize,
    /// Attempts at the same time, to one host.
    pub per_host: usize,
}

/// Delivers.
pub struct Deliverer {
    service: Arc<Service>,
    courier: Courier,
    rules: Rules,
    /// Cancelled when attempts under way must end.
    end: CancellationToken,
}

/// A delivery that is in line for its host.
struct Waiting {
    delivery: ClaimedDelivery,
    /// When it is too late to begin: the claim would end before the attempt does.
    begin_by: Instant,
}

/// What is under way.
struct Work {
    hosts: Hosts<Waiting>,
    attempts: JoinSet<bool>,
    running: HashMap<Id, Ticket<()>>,
}

impl Deliverer {
    /// A deliverer that has not begun.
    pub fn new(service: Arc<Service>, courier: Courier, rules: Rules) -> Arc<Self> {
        Arc::new(Self { service, courier, rules, end: CancellationToken::new() })
    }

    /// Delivers until `stop`, and gives attempts under way a little time to come to their end.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut work = Work {
            hosts: Hosts::new(self.rules.per_host, self.rules.concurrency),
            attempts: JoinSet::new(),
            running: HashMap::new(),
        };
        let mut polls = interval(POLL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut measures = interval(MEASURE);
        measures.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_look = Instant::now();
        let mut more = true;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = work.attempts.join_next_with_id() => work.ended(ended),
                _ = polls.tick() => more = true,
                () = self.service.deliveries.notified() => more = true,
                () = sleep_until(next_look), if more && work.hosts.room() > 0 => {
                    let looked_at = Instant::now();
                    more = self.take(&mut work).await;
                    // The longer a look takes, the rarer it is.
                    next_look = Instant::now() + BREATH.max(looked_at.elapsed() * 2);
                }
                _ = measures.tick() => self.measure().await,
            }
            self.give_late_ones_back(&mut work).await;
            self.begin(&mut work);
        }
        self.finish(work).await;
    }

    /// Gives back what waits, and attempts under way a little time. With the database away nothing of it can be written
    /// down: then the claims end by themselves.
    async fn finish(&self, mut work: Work) {
        let waiting = work.hosts.overdue(|_| true);
        let _ = timeout(GRACE, self.give_all_back(waiting, 0)).await;
        let attempts = &mut work.attempts;
        let _ = timeout(GRACE, async { while attempts.join_next().await.is_some() {} }).await;
        self.end.cancel();
        let _ = timeout(GRACE, async { while attempts.join_next().await.is_some() {} }).await;
        attempts.shutdown().await;
    }

    /// Claims what is due. Says whether there may be more.
    async fn take(&self, work: &mut Work) -> bool {
        let limit = work.hosts.room().min(BATCH);
        let claimed_at = Instant::now();
        let now = self.service.now();
        let held = self.rules.timeout * 2 + attempt::SETTLING;
        let claim = Claim {
            now,
            until: now.saturating_add(micros(held)),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            busy_hosts: work.hosts.busy(),
        };
        match self.service.store.claim_deliveries(claim).await {
            Ok(claimed) => {
                let more = claimed.len() >= limit;
                for delivery in claimed {
                    let waiting = Waiting { begin_by: claimed_at + self.rules.timeout, delivery };
                    work.hosts.wait(waiting.delivery.host.clone(), waiting);
                }
                more
            }
            Err(error) => {
                tracing::debug!(%error, "webhook deliveries could not be looked for");
                false
            }
        }
    }

    fn begin(self: &Arc<Self>, work: &mut Work) {
        while let Some(Ticket { host, slow, work: waiting }) = work.hosts.next() {
            let this = Arc::clone(self);
            let task = work.attempts.spawn(async move { this.attempt(waiting.delivery).await });
            work.running.insert(task.id(), Ticket { host, slow, work: () });
        }
    }

    /// What would begin too late goes back, and behind what is due for other hosts.
    async fn give_late_ones_back(&self, work: &mut Work) {
        let now = Instant::now();
        let late = work.hosts.overdue(|waiting| waiting.begin_by <= now);
        self.give_all_back(late, micros(self.rules.timeout)).await;
    }

    /// Stops at the first one that cannot be given back: the others could not either.
    async fn give_all_back(&self, waiting: Vec<Waiting>, wait: Micros) {
        for one in waiting {
            if !self.give_back(&one.delivery, wait).await {
                return;
            }
        }
    }

    async fn measure(&self) {
        match self.service.store.outbox().await {
            Ok(outbox) => {
                let overdue = outbox.first_due.map_or(0, |due| self.service.now() - due);
                let overdue = Duration::from_micros(u64::try_from(overdue).unwrap_or(0));
                self.service.metrics.webhooks.outbox(outbox.pending, overdue);
            }
            Err(error) => tracing::debug!(%error, "the outbox could not be measured"),
        }
    }
}

impl Work {
    fn ended(&mut self, ended: Result<(Id, bool), JoinError>) {
        let (id, slow) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "an attempt to deliver a webhook broke off");
                (error.id(), false)
            }
        };
        if let Some(ticket) = self.running.remove(&id) {
            self.hosts.left(&ticket.host, ticket.slow, slow);
        }
    }
}

fn micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}
