//! Revoke a key: commit, invalidate the cache, and wait until no replica answers VALID for it.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::Keys;
use crate::{
    domain::{
        access,
        caller::{Caller, KeyCaller},
        error::{Error, Result},
        key::{KeyId, KeyRecord},
        text,
        validation::Violations,
    },
    service::context::CallContext,
    store,
};

/// How long [`Keys::revocation`] waits for all replicas before it returns the progress.
const PROGRESS_TIMEOUT: Duration = Duration::from_millis(500);

/// A key that is revoked, which every replica has applied.
#[derive(Debug, Clone)]
pub struct Revoked {
    /// The record.
    pub key: KeyRecord,
    /// How many replicas there were.
    pub replicas: usize,
    /// Time from the call until every replica had applied the revocation.
    pub took: Duration,
}

/// How far a revocation is.
#[derive(Debug, Clone)]
pub enum Revocation {
    /// The key is not revoked.
    None,
    /// No replica can answer VALID any more.
    Certain {
        /// How many replicas there are.
        replicas: usize,
    },
    /// Some replicas may still answer from an older state.
    Pending {
        /// How many have not applied the revocation.
        waiting: usize,
        /// How many there are.
        replicas: usize,
    },
}

impl Keys {
    /// Revokes a key. Once this returns, no Verify that starts afterwards answers VALID for it on any replica.
    ///
    /// # Errors
    ///
    /// REVOCATION_PENDING if the revocation is committed, but the caller's deadline passed, or the process had to stop,
    /// before every replica was known to have applied it. INVALID_ARGUMENT; PERMISSION_DENIED; NOT_FOUND; UNAVAILABLE;
    /// DEADLINE_EXCEEDED.
    pub async fn revoke(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        mut reason: String,
        context: CallContext<'_>,
    ) -> Result<Revoked> {
        let (manager, _call) = self.calls.begin(caller)?;
        let mut violations = Violations::default();
        let id = id.parse::<KeyId>().map_err(|why| violations.add("id", why.to_string()));
        text::normalize(&mut reason);
        violations.display_text("reason", &reason);
        violations.finish()?;
        let Ok(id) = id else { return Err(Error::no_such_key()) };
        manager.may_change(&self.visible(manager, id, context).await?)?;
        self.revoke_and_wait(id, reason, caller.actor(), context.deadline).await
    }

    /// Revokes the key that makes the call.
    ///
    /// # Errors
    ///
    /// Those of [`Self::revoke`].
    pub async fn revoke_own(self: &Arc<Self>, key: &Arc<KeyCaller>, context: CallContext<'_>) -> Result<Revoked> {
        access::may_change_itself(key)?;
        let actor = Caller::Key(Arc::clone(key)).actor();
        self.revoke_and_wait(key.id, String::new(), actor, context.deadline).await
    }

    async fn revoke_and_wait(
        self: &Arc<Self>,
        id: KeyId,
        reason: String,
        by: String,
        deadline: Instant,
    ) -> Result<Revoked> {
        let began = Instant::now();
        // Run this in a task of its own: a request that is dropped between the commit and the invalidation must not
        // prevent the invalidation.
        let committed = self.runtime.spawn(Arc::clone(self).commit_revocation(id, reason, by));
        let Ok(joined) = timeout_at(deadline, committed).await else { return Err(Error::deadline_exceeded()) };
        let key = joined.map_err(|error| Error::internal(error.to_string()))??.ok_or_else(Error::no_such_key)?;
        if key.revoked_at.is_none() {
            // This must never happen. If it does, the key is not revoked, so the call must not return OK.
            return Err(Error::unavailable("the key was read back unrevoked"));
        }
        let start = Instant::now();
        let acknowledged = timeout_at(deadline, self.replica.wait_for_replicas(key.revision));
        let acknowledged = self.closing.run_until_cancelled(acknowledged).await;
        let replicas = acknowledged.and_then(std::result::Result::ok).ok_or_else(Error::revocation_pending)?;
        self.metrics.revoke_wait_seconds.record(start.elapsed());
        Ok(Revoked { key, replicas, took: began.elapsed() })
    }

    /// The progress of a key's revocation. Waits for all replicas like a repeated revocation, but at most
    /// [`PROGRESS_TIMEOUT`] and until the caller's deadline.
    ///
    /// # Errors
    ///
    /// Those of [`Self::get`].
    pub async fn revocation(
        &self,
        caller: &Caller,
        id: &str,
        context: CallContext<'_>,
    ) -> Result<(KeyRecord, Revocation)> {
        let key = self.get(caller, id, context).await?;
        if key.revoked_at.is_none() {
            return Ok((key, Revocation::None));
        }
        let wait_until = context.deadline.min(Instant::now() + PROGRESS_TIMEOUT);
        if let Ok(replicas) = timeout_at(wait_until, self.replica.wait_for_replicas(key.revision)).await {
            return Ok((key, Revocation::Certain { replicas }));
        }
        let rows = context.bounded(self.store.replicas()).await?;
        let waiting = rows.iter().filter(|row| row.seen_revision < key.revision).count();
        Ok((key, Revocation::Pending { waiting: waiting.max(1), replicas: rows.len().max(1) }))
    }

    /// Writes the revocation, and invalidates the key in this replica's cache.
    async fn commit_revocation(self: Arc<Self>, id: KeyId, reason: String, by: String) -> Result<Option<KeyRecord>> {
        let (event, at) = self.ids.event_id_with_time();
        let revocation = store::Revocation { at, reason, by, event };
        let key = self.store.revoke_key(id, revocation).await;
        if key.is_err() {
            self.runtime.spawn(Arc::clone(&self).invalidate_if_revoked(id));
        }
        // Read the last use before the invalidation: the invalidation drops a use that is not flushed yet.
        let key = key?.map(|key| self.with_last_use(key));
        if let Some(key) = &key {
            self.replica.apply_own_change(&key.digest);
            self.deliveries.notify_deliveries(key);
        }
        Ok(key)
    }

    /// Invalidates the key after a revocation that failed, since the write may have been committed all the same. With
    /// several replicas the follower reads the change; where one process owns the database nothing else does, and the
    /// cache would answer VALID for a key that every list shows as revoked.
    async fn invalidate_if_revoked(self: Arc<Self>, id: KeyId) {
        // The ping waits for the writer's connection, and so for the end of the write that failed.
        if !self.replica.has_peers()
            && self.store.ping().await.is_ok()
            && let Ok(Some(key)) = self.store.find_by_id(id).await
        {
            self.replica.apply_own_change(&key.digest);
        }
    }
}
