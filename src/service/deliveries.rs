//! Wakes the webhook worker of this process.

use tokio::sync::Notify;

use crate::domain::key::KeyRecord;

/// Notifies the webhook worker that a delivery may be due. The worker also polls, so a lost signal only delays a
/// delivery.
#[derive(Debug, Default)]
pub struct DeliverySignal(Notify);

impl DeliverySignal {
    /// Wakes the worker.
    pub fn notify(&self) {
        self.0.notify_one();
    }

    /// Wakes the worker after an event of this key, if the key has a webhook.
    pub fn notify_deliveries(&self, key: &KeyRecord) {
        if !key.webhook_url.is_empty() {
            self.notify();
        }
    }

    /// Waits for a signal. A signal that was sent while nobody waited is kept.
    pub async fn notified(&self) {
        self.0.notified().await;
    }
}
