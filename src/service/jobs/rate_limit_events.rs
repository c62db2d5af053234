//! Events of keys that their rate limit refused.

use super::{Jobs, STATEMENT_BATCH};
use crate::{domain::event::EventType, replica::rate_limit_events::RateLimitEvent, store::events::NewEvent};

impl Jobs {
    /// Writes one event for each key and window that had a refusal. What cannot be written is kept for the next flush.
    pub async fn flush_rate_limit_events(&self) {
        let now = self.clock.wall();
        let taken = self.replica.rate_limit_events.take(now);
        for batch in taken.chunks(STATEMENT_BATCH as usize) {
            let event = |refusal: &RateLimitEvent| NewEvent {
                id: self.ids.event_id(),
                key: refusal.key,
                once: refusal.window_start,
            };
            let events = batch.iter().map(event).collect();
            match self.store.add_events(EventType::KeyRateLimited, events, now).await {
                Ok(written) if written > 0 => self.deliveries.notify(),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, keys = batch.len(), "rate limit event flush failed, will retry");
                    self.replica.rate_limit_events.restore(batch, now);
                }
            }
        }
    }
}
