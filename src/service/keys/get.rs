//! Read one key.

use super::Keys;
use crate::{
    domain::{
        access::Manager,
        caller::Caller,
        error::{Error, Result},
        key::{KeyId, KeyRecord},
    },
    service::context::CallContext,
};

impl Keys {
    /// One key.
    ///
    /// # Errors
    ///
    /// PERMISSION_DENIED; NOT_FOUND, also for a key that the caller may not see; UNAVAILABLE; DEADLINE_EXCEEDED.
    pub async fn get(&self, caller: &Caller, id: &str, context: CallContext<'_>) -> Result<KeyRecord> {
        let (manager, _call) = self.calls.begin(caller)?;
        let id = id.parse().map_err(|why| Error::invalid("id", format!("{why}")))?;
        self.visible(manager, id, context).await
    }

    /// The record of the key that makes the call.
    ///
    /// # Errors
    ///
    /// NOT_FOUND; UNAVAILABLE; DEADLINE_EXCEEDED.
    pub async fn own_record(&self, id: KeyId, context: CallContext<'_>) -> Result<KeyRecord> {
        let key = context.bounded(self.store.find_by_id(id)).await?.ok_or_else(Error::no_such_key)?;
        Ok(self.with_last_use(key))
    }

    /// A key that the manager may see. For any other key the answer is exactly that for an id that does not exist, so
    /// that existing ids cannot be found by guessing.
    pub(in crate::service) async fn visible(
        &self,
        manager: Manager<'_>,
        id: KeyId,
        context: CallContext<'_>,
    ) -> Result<KeyRecord> {
        let key = context.bounded(self.store.find_by_id(id)).await?;
        let configured = |key: &KeyRecord| self.registry.by_name(&key.keyspace).is_some();
        let key = key.filter(|key| configured(key) && manager.sees(key)).ok_or_else(Error::no_such_key)?;
        manager.may_read(&key)?;
        Ok(self.with_last_use(key))
    }
}
