//! One attempt to deliver an event, and what becomes of the delivery after it.

use std::time::Duration;

use bytes::Bytes;

use super::{Deliverer, message, micros};
use crate::{
    domain::{clock::Micros, webhook::retry_after},
    store::{
        StoreError,
        events::{ClaimedDelivery, DeliveryState, Disabling, Settlement},
    },
    telemetry::webhooks::DeliveryOutcome,
    webhook::client::{Answer, Failure, SLOW},
};

/// Time to write an outcome down in, while the database is away. A claim is held for as long.
pub const SETTLING: Duration = Duration::from_secs(5);

/// What came of an attempt.
struct Attempted {
    outcome: DeliveryOutcome,
    status: Option<u16>,
    error: String,
    response: String,
}

impl Attempted {
    fn without_answer(outcome: DeliveryOutcome, error: impl Into<String>) -> Self {
        Self { outcome, status: None, error: error.into(), response: String::new() }
    }
}

impl From<Answer> for Attempted {
    fn from(answer: Answer) -> Self {
        let (outcome, error) = match answer.status {
            200..=299 => (DeliveryOutcome::Delivered, String::new()),
            300..=399 => (DeliveryOutcome::Redirected, "redirects are not followed".to_owned()),
            410 => (DeliveryOutcome::Gone, "answered 410: the receiver is gone".to_owned()),
            status => (DeliveryOutcome::Rejected, format!("answered {status}")),
        };
        Self { outcome, status: Some(answer.status), error, response: answer.body }
    }
}

impl From<Failure> for Attempted {
    fn from(failure: Failure) -> Self {
        let outcome = match failure {
            Failure::Refused(_) | Failure::NotPublic => DeliveryOutcome::Refused,
            Failure::Unresolved | Failure::Unreachable(_) | Failure::Tls(_) | Failure::Broken(_) => {
                DeliveryOutcome::Unreachable
            }
            Failure::TimedOut | Failure::Crowded => DeliveryOutcome::TimedOut,
        };
        Self::without_answer(outcome, failure.to_string())
    }
}

impl Deliverer {
    /// Makes an attempt and writes down what came of it. Says whether the receiver was slow.
    pub(super) async fn attempt(&self, delivery: ClaimedDelivery) -> bool {
        let begun = self.service.clock.monotonic();
        let sent = tokio::select! {
            sent = self.send(&delivery) => sent,
            // The program is ending. The receiver may have it by now or not; it will get it again.
            () = self.end.cancelled() => {
                self.give_back(&delivery, 0).await;
                return false;
            }
        };
        let took = self.service.clock.monotonic() - begun;
        let Some(attempted) = sent else {
            // Nothing was tried, and a try now would find the same. Its name is taken for a slow one, as its address is.
            self.give_back(&delivery, self.crowded_wait()).await;
            return true;
        };
        self.service.metrics.webhooks.attempt(attempted.outcome);
        tracing::debug!(
            event = %delivery.event.id, attempt = delivery.attempt, outcome = ?attempted.outcome, status = attempted.status,
            error = attempted.error, "webhook attempted"
        );
        self.settle(&delivery, attempted).await;
        took > micros(SLOW)
    }

    /// None: it has to wait for others that go to the same addresses.
    async fn send(&self, delivery: &ClaimedDelivery) -> Option<Attempted> {
        if delivery.url.is_empty() {
            return Some(Attempted::without_answer(DeliveryOutcome::Abandoned, "the key has no webhook any more"));
        }
        let target = match self.courier.target(&delivery.url) {
            Ok(target) => target,
            Err(failure) => return Some(failure.into()),
        };
        let body = Bytes::from(message::body(&delivery.event).to_string());
        let Some(headers) = message::headers(&self.service.master_keys, delivery, &body, self.service.now()) else {
            let error = "the signing secret derives from a master key that is not listed";
            return Some(Attempted::without_answer(DeliveryOutcome::Abandoned, error));
        };
        match self.courier.post(&target, &headers, body).await {
            Ok(answer) => Some(answer.into()),
            Err(Failure::Crowded) => None,
            Err(failure) => Some(failure.into()),
        }
    }

    /// Between one and two times what an attempt may take, so that those that wait together do not come back together.
    fn crowded_wait(&self) -> Micros {
        let most = micros(self.rules.timeout);
        most.saturating_add(most / 1_000 * i64::from(self.chance() % 1_000))
    }

    async fn settle(&self, delivery: &ClaimedDelivery, attempted: Attempted) {
        let now = self.service.now();
        let again = match attempted.outcome {
            DeliveryOutcome::Delivered | DeliveryOutcome::Gone => None,
            DeliveryOutcome::Abandoned if delivery.url.is_empty() => None,
            _ => retry_after(&self.rules.retries, u32::try_from(delivery.attempt).unwrap_or(u32::MAX), self.chance()),
        };
        let state = match attempted.outcome {
            DeliveryOutcome::Delivered => DeliveryState::Delivered,
            _ if again.is_some() => DeliveryState::Pending,
            _ => DeliveryState::Failed,
        };
        if attempted.outcome == DeliveryOutcome::Gone {
            // First: a program that ends between the two will hear of it again.
            self.disable(delivery, now).await;
        }
        let kept = self
            .write(|| {
                self.service.store.settle_delivery(Settlement {
                    event: delivery.event.id,
                    claim: delivery.claim,
                    at: now,
                    state,
                    next_attempt_at: now.saturating_add(again.unwrap_or(0)),
                    status: attempted.status,
                    error: attempted.error.clone(),
                    response: attempted.response.clone(),
                })
            })
            .await;
        if kept == Some(true) && state == DeliveryState::Failed {
            tracing::info!(event = %delivery.event.id, key = %delivery.event.key.id, "a webhook delivery was given up");
        }
        if kept == Some(true) && state == DeliveryState::Delivered {
            let after = u64::try_from(now - delivery.event.id.at()).unwrap_or(0);
            self.service.metrics.webhooks.delivered(Duration::from_micros(after));
        }
    }

    /// Takes the webhook away, unless it has become another one meanwhile.
    async fn disable(&self, delivery: &ClaimedDelivery, now: Micros) {
        let event = self.service.event_id();
        let disabled = self
            .write(|| {
                let disabling = Disabling { url: delivery.url.clone(), at: now, event };
                self.service.store.disable_webhook(delivery.event.key.id, disabling)
            })
            .await;
        if disabled == Some(true) {
            tracing::info!(key = %delivery.event.key.id, "a receiver is gone: its webhook is disabled");
        }
    }

    /// Ends a claim without an attempt: the delivery is due again after `wait`, as if it had not been taken. Says whether
    /// the database has it; if not, the claim ends by itself.
    pub(super) async fn give_back(&self, delivery: &ClaimedDelivery, wait: Micros) -> bool {
        let due_at = self.service.now().saturating_add(wait);
        let released = self.service.store.release_delivery(delivery.event.id, delivery.claim, due_at).await;
        if let Err(error) = &released {
            tracing::debug!(%error, event = %delivery.event.id, "a webhook delivery could not be given back");
        }
        released.is_ok()
    }

    /// Writes until the database has taken it, or for as long as the claim is held. None: it was not written, or nobody
    /// knows.
    async fn write<F, T>(&self, call: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let until = tokio::time::Instant::now() + SETTLING;
        loop {
            match call().await {
                Ok(written) => return Some(written),
                Err(StoreError::Unavailable(_)) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "the outcome of a webhook delivery could not be written down");
                    return None;
                }
            }
        }
    }

    fn chance(&self) -> u32 {
        let mut bytes = [0; 4];
        self.service.entropy.fill(&mut bytes);
        u32::from_ne_bytes(bytes)
    }
}
