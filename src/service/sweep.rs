//! What is told without a call: keys that expire, keys that were limited; and what is told no longer.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::Service;
use crate::{
    domain::{
        clock::{Micros, SECOND},
        event::{EventId, EventType},
        key::KeyId,
    },
    store::{
        StoreError,
        events::{ExpiryPosition, ExpiryQuery, NewEvent},
    },
};

/// For how long one replica sweeps for all of them.
const TURN: Micros = 12 * SECOND;
/// How long a sweep may go on; the next one goes on from there.
const BUDGET: Duration = Duration::from_secs(10);
/// How far before the mark a sweep begins again: a key may show a little after others that expire later.
const OVERLAP: Micros = 60 * SECOND;
/// Keys or events in one statement.
const BATCH: u32 = 500;

impl Service {
    /// Tells of keys that have expired or are about to, and deletes events that are past their retention. One replica
    /// does it for all.
    pub async fn sweep_events(&self) {
        let now = self.now();
        let swept = match self.store.try_acquire_job_lease("event_sweep", now, now + TURN).await {
            Ok(false) => return,
            Ok(true) => self.sweep(Instant::now() + BUDGET).await,
            Err(error) => Err(error),
        };
        if let Err(error) = swept {
            tracing::warn!(%error, "keys that expire could not be looked for; the next sweep goes on from here");
        }
    }

    async fn sweep(&self, deadline: Instant) -> Result<(), StoreError> {
        self.tell_expiries(EventType::KeyExpired, 0, deadline).await?;
        for before in &self.events.expiring_before {
            self.tell_expiries(EventType::KeyExpiring, *before, deadline).await?;
        }
        let below = EventId::lowest(self.now() - self.events.retention);
        while Instant::now() < deadline {
            if self.store.delete_events(below, BATCH).await? < u64::from(BATCH) {
                break;
            }
        }
        Ok(())
    }

    /// Tells of the keys whose expiry is `before` away. Several replicas may do so at once: of the same event the store
    /// writes one. A mark, which only rises, tells how far all keys were looked at.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn tell_expiries(&self, kind: EventType, before: Micros, deadline: Instant) -> Result<(), StoreError> {
        let mark = format!("expiry_mark_{}", before / SECOND);
        let now = self.now();
        let until = now.saturating_add(before);
        // The first sweep ever tells of nothing that was past before.
        let reached = match self.store.watermark(mark.clone()).await? {
            Some(reached) => reached,
            None => self.store.advance_watermark(mark.clone(), until).await?,
        };
        let mut after = ExpiryPosition { at: reached.saturating_sub(OVERLAP), key: KeyId(Uuid::nil()) };
        let once = before / SECOND;
        loop {
            let query = ExpiryQuery { after, until, kind, once, limit: BATCH };
            let page = self.store.expiring_keys(query).await?;
            // What was past when the key was made is no news, and a key that has expired is about to no more.
            let due = page.iter().filter(|key| !key.written && key.created_at < key.position.at - before);
            let due = due.filter(|key| before == 0 || key.position.at > now);
            let events: Vec<_> = due.map(|key| NewEvent { id: self.event_id(), key: key.position.key, once }).collect();
            if self.store.add_events(kind, events, now).await? > 0 {
                self.deliveries.notify_one();
            }
            let Some(last) = page.last().filter(|_| page.len() == BATCH as usize) else { break };
            after = last.position;
            self.store.advance_watermark(mark.clone(), after.at).await?;
            if Instant::now() >= deadline {
                return Ok(());
            }
        }
        self.store.advance_watermark(mark, until).await?;
        Ok(())
    }

    /// Tells of the keys that their limit has refused. What cannot be written is kept for the next time.
    pub async fn write_refusals_down(&self) {
        let now = self.now();
        let taken = self.replica.rate_limit_events.take(now);
        for batch in taken.chunks(BATCH as usize) {
            let event = |refusal: &crate::replica::rate_limit_events::RateLimitEvent| NewEvent {
                id: self.event_id(),
                key: refusal.key,
                once: refusal.window_start,
            };
            let events = batch.iter().map(event).collect();
            match self.store.add_events(EventType::KeyRateLimited, events, now).await {
                Ok(written) if written > 0 => self.deliveries.notify_one(),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, keys = batch.len(), "refusals could not be written down; they are kept");
                    self.replica.rate_limit_events.restore(batch, now);
                }
            }
        }
    }
}
