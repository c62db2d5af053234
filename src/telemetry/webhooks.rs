//! What is measured of webhooks.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit};

/// Deliveries that are pending, of all replicas.
pub const PENDING: &str = "keyward_webhook_pending";
/// Seconds for which the first of them has been due.
pub const OVERDUE_SECONDS: &str = "keyward_webhook_overdue_seconds";
/// Attempts by `outcome`.
pub const ATTEMPTS: &str = "keyward_webhook_attempts_total";
/// Seconds from an event to its delivery.
pub const DELIVERY_SECONDS: &str = "keyward_webhook_delivery_seconds";
/// From an event that is told at once to one that took three days.
pub const DELIVERY_BUCKETS: [f64; 12] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 600.0, 7_200.0, 86_400.0];

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// 2xx.
    Delivered,
    /// 410: the webhook is disabled.
    Gone,
    /// 3xx, which nothing follows.
    Redirected,
    /// Another status.
    Rejected,
    /// Where the URL leads is out of bounds.
    Refused,
    /// No connection, or nothing that could be read on it.
    Unreachable,
    /// Not in time.
    TimedOut,
    /// There was nothing to send, or nothing to sign it with.
    Abandoned,
}

impl DeliveryOutcome {
    /// All of them, in their order.
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

/// Handles of webhooks' metrics.
pub struct WebhookMetrics {
    attempts: [Counter; DeliveryOutcome::ALL.len()],
    delivery_seconds: Histogram,
    pending: Gauge,
    overdue_seconds: Gauge,
}

impl WebhookMetrics {
    /// Handles of the recorder that is the local one now.
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

    /// An event was delivered so long after it happened.
    pub fn delivered(&self, after: Duration) {
        self.delivery_seconds.record(after);
    }

    /// What is on its way, and how late the first of it is.
    pub fn outbox(&self, pending: i64, overdue: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; there are fewer than 2^53 deliveries")]
        self.pending.set(pending as f64);
        self.overdue_seconds.set(overdue.as_secs_f64());
    }
}
