//! Metrics of webhooks: names, help texts and handles.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit};

/// Pending deliveries, of all replicas.
pub const PENDING: &str = "keyward_webhook_pending";
/// Seconds for which the earliest pending delivery has been due.
pub(crate) const OVERDUE_SECONDS: &str = "keyward_webhook_overdue_seconds";
/// Attempts by `outcome`.
pub const ATTEMPTS: &str = "keyward_webhook_attempts_total";
/// Seconds from an event to its delivery.
pub(crate) const DELIVERY_SECONDS: &str = "keyward_webhook_delivery_seconds";
/// Histogram buckets in seconds, from an immediate delivery to one that took days.
pub(crate) const DELIVERY_BUCKETS: [f64; 12] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 600.0, 7_200.0, 86_400.0];

/// The outcome of a delivery attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// Answered 2xx.
    Delivered,
    /// Answered 410: the webhook is disabled.
    Gone,
    /// Answered 3xx. Redirects are not followed.
    Redirected,
    /// Answered with another status.
    Rejected,
    /// The egress rules forbid the URL or its address.
    Refused,
    /// No connection, or no readable response.
    Unreachable,
    /// No response in time.
    TimedOut,
    /// Nothing to send, or no secret to sign it with.
    Abandoned,
}

impl DeliveryOutcome {
    /// All outcomes, in order.
    pub const ALL: [Self; 8] = [
        Self::Delivered,
        Self::Gone,
        Self::Redirected,
        Self::Rejected,
        Self::Refused,
        Self::Unreachable,
        Self::TimedOut,
        Self::Abandoned,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Gone => "gone",
            Self::Redirected => "redirected",
            Self::Rejected => "rejected",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Abandoned => "abandoned",
        }
    }
}

/// The handles of webhooks' metrics.
pub struct WebhookMetrics {
    attempts: [Counter; DeliveryOutcome::ALL.len()],
    delivery_seconds: Histogram,
    pending: Gauge,
    overdue_seconds: Gauge,
}

impl WebhookMetrics {
    /// Registers the metrics with the current local recorder.
    pub(super) fn new() -> Self {
        metrics::describe_gauge!(PENDING, "Webhook deliveries that are pending.");
        metrics::describe_gauge!(OVERDUE_SECONDS, Unit::Seconds, "For how long the first of them has been due.");
        metrics::describe_counter!(ATTEMPTS, "Attempts to deliver a webhook by outcome.");
        metrics::describe_histogram!(DELIVERY_SECONDS, Unit::Seconds, "From an event to its delivery.");
        Self {
            attempts: DeliveryOutcome::ALL.map(|outcome| metrics::counter!(ATTEMPTS, "outcome" => outcome.name())),
            delivery_seconds: metrics::histogram!(DELIVERY_SECONDS),
            pending: metrics::gauge!(PENDING),
            overdue_seconds: metrics::gauge!(OVERDUE_SECONDS),
        }
    }

    /// Counts an attempt.
    pub fn attempt(&self, outcome: DeliveryOutcome) {
        self.attempts[outcome as usize].increment(1);
    }

    /// Records the time from an event to its delivery.
    pub fn delivered(&self, after: Duration) {
        self.delivery_seconds.record(after);
    }

    /// Sets the number of pending deliveries, and how long the earliest has been due.
    pub fn outbox(&self, pending: i64, overdue: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; there are fewer than 2^53 deliveries")]
        self.pending.set(pending as f64);
        self.overdue_seconds.set(overdue.as_secs_f64());
    }
}
