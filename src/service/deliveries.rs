//! Wakes the webhook worker of this process.

use tokio::sync::Notify;

use crate::domain::key::KeyRecord;

/// Notifies the webhook worker that a delivery may be due. Only a hint: the worker also polls, so a lost signal costs
/// latency and nothing else.
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

    /// Waits for a signal. One that was given while nobody waited is not lost.
    pub async fn notified(&self) {
        self.0.notified().await;
    }
}
