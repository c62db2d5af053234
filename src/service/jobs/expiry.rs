//! Events of keys that have expired or are about to.

use tokio::time::Instant;
use uuid::Uuid;

use super::{Jobs, STATEMENT_BATCH};
use crate::{
    domain::{
        clock::{Micros, SECOND},
        event::EventType,
        key::KeyId,
    },
    store::{
        StoreError,
        events::{ExpiryPosition, ExpiryQuery, NewEvent},
    },
};

/// How far before the watermark a sweep starts: a key may be committed after keys that expire later were swept.
const OVERLAP: Micros = 60 * SECOND;

impl Jobs {
    /// Emits one event for each key that expires within `before`; 0 means keys that have expired. Several replicas may do
    /// so at once: the store writes the same event once. A watermark, which only rises, records up to which expiry every
    /// key was seen.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn emit_expiry_events(
        &self,
        kind: EventType,
        before: Micros,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let watermark = format!("expiry_mark_{}", before / SECOND);
        let now = self.clock.wall();
        let until = now.saturating_add(before);
        // The first sweep of all emits no events for keys that had expired before it.
        let swept_until = match self.store.watermark(watermark.clone()).await? {
            Some(swept_until) => swept_until,
            None => self.store.advance_watermark(watermark.clone(), until).await?,
        };
        let mut after = ExpiryPosition { at: swept_until.saturating_sub(OVERLAP), key: KeyId(Uuid::nil()) };
        let once = before / SECOND;
        loop {
            let query = ExpiryQuery { after, until, kind, once, limit: STATEMENT_BATCH };
            let page = self.store.expiring_keys(query).await?;
            // Emit no event for a threshold that had passed when the key was created, and no `key.expiring` event for a
            // key that has expired.
            let due = page.iter().filter(|key| !key.written && key.created_at < key.position.at - before);
            let due = due.filter(|key| before == 0 || key.position.at > now);
            let event = |key: KeyId| NewEvent { id: self.ids.event_id(), key, once };
            let events: Vec<_> = due.map(|key| event(key.position.key)).collect();
            if self.store.add_events(kind, events, now).await? > 0 {
                self.deliveries.notify();
            }
            let Some(last) = page.last().filter(|_| page.len() == STATEMENT_BATCH as usize) else { break };
            after = last.position;
            self.store.advance_watermark(watermark.clone(), after.at).await?;
            if Instant::now() >= deadline {
                return Ok(());
            }
        }
        self.store.advance_watermark(watermark, until).await?;
        Ok(())
    }
}
