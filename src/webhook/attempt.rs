//! One attempt to deliver an event, and how its result is recorded.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{
    client::{ReceiverResponse, SendError, WebhookClient},
    deps::OutboxDeps,
    message,
    scheduler::Slot,
};
use crate::{
    domain::{clock::Micros, egress::Target, webhook::retry_after},
    store::{
        StoreError,
        events::{ClaimedDelivery, DeliveryState, Settlement},
        keys::WebhookRemoval,
    },
    telemetry::webhooks::DeliveryOutcome,
};

/// How long the database may be unavailable before a result is lost. A claim is held long enough for it.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay between two attempts to record a result.
const SETTLE_RETRY_DELAY: Duration = Duration::from_millis(250);

/// How deliveries are made.
#[derive(Debug, Clone)]
pub struct DeliveryRules {
    /// Timeout of an attempt.
    pub timeout: Duration,
    /// The delays after the first attempt and each further one.
    pub retries: Vec<Micros>,
    /// Attempts at the same time.
    pub concurrency: usize,
    /// Attempts at the same time to one host.
    pub per_host: usize,
}

/// Makes attempts and records their results.
pub struct AttemptRunner {
    pub(super) deps: Arc<OutboxDeps>,
    client: WebhookClient,
    rules: DeliveryRules,
    cancelled: CancellationToken,
}

/// The result of an attempt.
struct AttemptResult {
    outcome: DeliveryOutcome,
    status: Option<u16>,
    error: String,
    response: String,
}

impl AttemptResult {
    fn without_response(outcome: DeliveryOutcome, error: impl Into<String>) -> Self {
        Self { outcome, status: None, error: error.into(), response: String::new() }
    }
}

impl From<ReceiverResponse> for AttemptResult {
    fn from(response: ReceiverResponse) -> Self {
        let (outcome, error) = match response.status {
            200..=299 => (DeliveryOutcome::Delivered, String::new()),
            300..=399 => (DeliveryOutcome::Redirected, "redirects are not followed".to_owned()),
            410 => (DeliveryOutcome::Gone, "answered 410: the receiver is gone".to_owned()),
            status => (DeliveryOutcome::Rejected, format!("answered {status}")),
        };
        Self { outcome, status: Some(response.status), error, response: response.body }
    }
}

impl From<SendError> for AttemptResult {
    fn from(error: SendError) -> Self {
        let outcome = match error {
            SendError::Refused(_) | SendError::NotPublic => DeliveryOutcome::Refused,
            SendError::Unresolved | SendError::Unreachable(_) | SendError::Tls(_) | SendError::InvalidResponse(_) => {
                DeliveryOutcome::Unreachable
            }
            SendError::TimedOut | SendError::ConcurrencyLimited => DeliveryOutcome::TimedOut,
        };
        Self::without_response(outcome, error.to_string())
    }
}

impl AttemptRunner {
    /// A runner of attempts by these rules.
    pub fn new(deps: Arc<OutboxDeps>, client: WebhookClient, rules: DeliveryRules) -> Self {
        Self { deps, client, rules, cancelled: CancellationToken::new() }
    }

    /// Ends every running attempt and releases its delivery.
    pub fn cancel(&self) {
        self.cancelled.cancel();
    }

    /// The target of a delivery under the current egress rules, which may have changed since the webhook was set.
    pub fn target(&self, delivery: &ClaimedDelivery) -> Result<Target, SendError> {
        self.client.target(&delivery.url)
    }

    /// Makes an attempt and records its result.
    pub async fn run(&self, delivery: ClaimedDelivery, target: Result<Target, SendError>, mut slot: Slot) {
        let result = tokio::select! {
            result = self.send(&delivery, target, &mut slot) => result,
            // The receiver may have the event or not, so it is sent again.
            () = self.cancelled.cancelled() => {
                self.release(&delivery, 0).await;
                return;
            }
        };
        slot.finished();
        let Some(result) = result else {
            self.release(&delivery, self.limited_wait()).await;
            return;
        };
        self.deps.metrics.webhooks.attempt(result.outcome);
        tracing::debug!(
            event = %delivery.event.id, attempt = delivery.attempt, outcome = ?result.outcome, status = result.status,
            error = result.error, "webhook attempted"
        );
        self.settle(&delivery, result).await;
    }

    /// None: nothing was sent, because the addresses have as many attempts as they may have.
    async fn send(
        &self,
        delivery: &ClaimedDelivery,
        target: Result<Target, SendError>,
        slot: &mut Slot,
    ) -> Option<AttemptResult> {
        if delivery.url.is_empty() {
            let error = "the key has no webhook any more";
            return Some(AttemptResult::without_response(DeliveryOutcome::Abandoned, error));
        }
        let target = match target {
            Ok(target) => target,
            Err(error) => return Some(error.into()),
        };
        let body = Bytes::from(message::body(&delivery.event).to_string());
        let Some(headers) = message::headers(&self.deps.master_keys, delivery, &body, self.deps.clock.wall()) else {
            let error = "the signing secret derives from a master key that is not listed";
            return Some(AttemptResult::without_response(DeliveryOutcome::Abandoned, error));
        };
        match self.client.post(&target, &headers, body, slot).await {
            Ok(response) => Some(response.into()),
            Err(SendError::ConcurrencyLimited) => None,
            Err(error) => Some(error.into()),
        }
    }

    /// Between one and two timeouts of an attempt, at random, so that deliveries that found the same addresses full are
    /// not all retried at the same time.
    fn limited_wait(&self) -> Micros {
        let timeout = micros(self.rules.timeout);
        timeout.saturating_add(timeout / 1_000 * i64::from(self.random() % 1_000))
    }

    async fn settle(&self, delivery: &ClaimedDelivery, result: AttemptResult) {
        let now = self.deps.clock.wall();
        let attempt = u32::try_from(delivery.attempt).unwrap_or(u32::MAX);
        let retry = match result.outcome {
            DeliveryOutcome::Delivered | DeliveryOutcome::Gone => None,
            DeliveryOutcome::Abandoned if delivery.url.is_empty() => None,
            _ => retry_after(&self.rules.retries, attempt, self.random()),
        };
        let state = match result.outcome {
            DeliveryOutcome::Delivered => DeliveryState::Delivered,
            _ if retry.is_some() => DeliveryState::Pending,
            _ => DeliveryState::Failed,
        };
        if result.outcome == DeliveryOutcome::Gone {
            // Before the delivery is settled: if the process ends in between, the receiver answers 410 once more.
            self.disable_webhook(delivery, now).await;
        }
        let settled = self
            .record(|| {
                self.deps.store.settle_delivery(Settlement {
                    event: delivery.event.id,
                    claim: delivery.claim,
                    at: now,
                    state,
                    next_attempt_at: now.saturating_add(retry.unwrap_or(0)),
                    status: result.status,
                    error: result.error.clone(),
                    response: result.response.clone(),
                })
            })
            .await;
        if settled == Some(true) && state == DeliveryState::Failed {
            tracing::info!(event = %delivery.event.id, key = %delivery.key, "webhook delivery failed, no retries left");
        }
        if settled == Some(true) && state == DeliveryState::Delivered {
            let latency = u64::try_from(now - delivery.event.id.at()).unwrap_or(0);
            self.deps.metrics.webhooks.delivered(Duration::from_micros(latency));
        }
    }

    /// Removes the webhook, unless its URL was changed meanwhile.
    async fn disable_webhook(&self, delivery: &ClaimedDelivery, now: Micros) {
        let event = self.deps.ids.event_id();
        let disabled = self
            .record(|| {
                let removal = WebhookRemoval { url: delivery.url.clone(), at: now, event };
                self.deps.store.disable_webhook(delivery.key, removal)
            })
            .await;
        if disabled == Some(true) {
            tracing::info!(key = %delivery.key, "webhook disabled: receiver answered 410 Gone");
        }
    }

    /// Ends a claim without an attempt: the delivery is due again after `wait`, as if it had not been claimed. Returns
    /// whether the database has done so; if not, the claim expires by itself.
    pub async fn release(&self, delivery: &ClaimedDelivery, wait: Micros) -> bool {
        let due_at = self.deps.clock.wall().saturating_add(wait);
        let released = self.deps.store.release_delivery(delivery.event.id, delivery.claim, due_at).await;
        if let Err(error) = &released {
            tracing::debug!(%error, event = %delivery.event.id, "webhook delivery could not be released");
        }
        released.is_ok()
    }

    /// Repeats a write while the database is unavailable, for [`SETTLE_TIMEOUT`]. None: it failed, or its result is
    /// unknown.
    async fn record<F, T>(&self, write: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let deadline = tokio::time::Instant::now() + SETTLE_TIMEOUT;
        loop {
            match write().await {
                Ok(written) => return Some(written),
                Err(StoreError::Unavailable(_)) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(SETTLE_RETRY_DELAY).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "the result of a webhook attempt could not be recorded");
                    return None;
                }
            }
        }
    }

    fn random(&self) -> u32 {
        let mut bytes = [0; 4];
        self.deps.entropy.fill(&mut bytes);
        u32::from_ne_bytes(bytes)
    }
}

/// A duration in microseconds.
pub fn micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}
