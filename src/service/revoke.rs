//! Revoke: commit, forget, and wait until every replica has forgotten.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::{Context, Service};
use crate::{
    domain::{
        access,
        caller::{Caller, KeyCaller},
        error::{Error, Result},
        key::{KeyId, KeyRecord},
        validation::Violations,
    },
    store::Revocation,
};

impl Service {
    /// Ends a key. Once this returns, no Verify that starts afterwards answers VALID for it on any replica.
    ///
    /// # Errors
    ///
    /// REVOCATION_PENDING if it is committed, but the caller's time ran out before it was certain everywhere.
    pub async fn revoke(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        reason: String,
        context: Context<'_>,
    ) -> Result<KeyRecord> {
        let manager = access::may_manage(caller)?;
        let mut violations = Violations::default();
        let id = id.parse::<KeyId>().map_err(|why| violations.add("id", why.to_string()));
        violations.line("reason", &reason);
        violations.finish()?;
        let Ok(id) = id else { return Err(Error::no_such_key()) };
        manager.may_change(&self.visible(manager, id, context).await?)?;
        self.end(id, reason, caller.actor(), context.deadline).await
    }

    /// The same for the key that makes the call.
    pub async fn revoke_oneself(self: &Arc<Self>, key: &Arc<KeyCaller>, context: Context<'_>) -> Result<KeyRecord> {
        access::may_change_itself(key)?;
        let actor = Caller::Key(Arc::clone(key)).actor();
        self.end(key.id, String::new(), actor, context.deadline).await
    }

    async fn end(self: &Arc<Self>, id: KeyId, reason: String, by: String, deadline: Instant) -> Result<KeyRecord> {
        let service = Arc::clone(self);
        // Commit and forget in a task of its own: a dropped request must not leave the one without the other.
        let committed = self.runtime.spawn(async move {
            let revocation = Revocation { at: service.now(), reason, by, event: service.event_id() };
            let key = service.store.revoke_key(id, revocation).await;
            if key.is_err() {
                service.runtime.spawn(Arc::clone(&service).forget_if_written(id));
            }
            // Before memory forgets the key, and with it a use that is not written down yet.
            let key = key?.map(|key| service.with_last_use(key));
            if let Some(key) = &key {
                service.replica.cache.invalidate(&key.digest);
                service.told(key);
            }
            Ok::<_, Error>(key)
        });
        let Ok(joined) = timeout_at(deadline, committed).await else { return Err(Error::deadline_exceeded()) };
        let key = joined.map_err(|error| Error::internal(error.to_string()))??.ok_or_else(Error::no_such_key)?;
        if key.revoked_at.is_none() {
            // Whatever brought that about: OK would be a lie.
            return Err(Error::unavailable("the key was read back unrevoked"));
        }
        let start = Instant::now();
        let certain = timeout_at(deadline, self.replica.wait_for_replicas(key.revision)).await;
        certain.map_err(|_| Error::revocation_pending())?;
        self.metrics.revoke_wait_seconds.record(start.elapsed());
        Ok(key)
    }

    /// After a revocation that failed, and may have been written all the same: with peers the follower finds out, but
    /// where one process owns the database nobody else looks, and memory would go on answering VALID for a key that every
    /// list shows as revoked.
    async fn forget_if_written(self: Arc<Self>, id: KeyId) {
        // The ping takes its turn as a writer: what was given up before it has ended.
        if !self.replica.has_peers()
            && self.store.ping().await.is_ok()
            && let Ok(Some(key)) = self.store.find_by_id(id).await
        {
            self.replica.cache.invalidate(&key.digest);
        }
    }
}
