//! Change a key's webhook: its URL, or the secret that signs its deliveries.

use zeroize::Zeroizing;

use super::Keys;
use crate::{
    domain::{
        access,
        caller::{Caller, KeyCaller},
        error::{Error, ErrorKind, Result},
        event::EventType,
        key::{KeyId, KeyRecord, KeyStatus},
        validation::Violations,
        webhook::SECRET_OVERLAP,
    },
    service::context::CallContext,
    store::keys::{SecretChange, WebhookUpdate},
};

/// A change of a key's webhook.
#[derive(Debug, Clone, Default)]
pub struct WebhookPatch {
    /// The new URL; empty removes the webhook.
    pub url: String,
    /// Whether deliveries are signed with a new secret from now on.
    pub rotate_secret: bool,
}

/// A key whose webhook was changed.
pub struct WebhookUpdated {
    /// The record.
    pub key: KeyRecord,
    /// The signing secret, if a URL was set for the first time or the secret was rotated.
    pub webhook_secret: Option<Zeroizing<String>>,
}

impl Keys {
    /// Sets or removes a key's webhook.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT with every bad field; PERMISSION_DENIED; NOT_FOUND; FAILED_PRECONDITION for a key that is revoked
    /// or expired; UNAVAILABLE; DEADLINE_EXCEEDED.
    pub async fn update_webhook(
        &self,
        caller: &Caller,
        id: &str,
        patch: WebhookPatch,
        context: CallContext<'_>,
    ) -> Result<WebhookUpdated> {
        let (manager, _call) = self.calls.begin(caller)?;
        let mut violations = Violations::default();
        let id = id.parse::<KeyId>().map_err(|why| violations.add("id", why.to_string()));
        self.validate_patch(&patch, &mut violations);
        violations.finish()?;
        let Ok(id) = id else { return Err(Error::no_such_key()) };
        let before = self.visible(manager, id, context).await?;
        manager.may_change(&before)?;
        self.change_webhook(before, patch, caller.actor(), context).await
    }

    /// Sets or removes the webhook of the key that makes the call.
    ///
    /// # Errors
    ///
    /// Those of [`Self::update_webhook`].
    pub async fn update_own_webhook(
        &self,
        key: &KeyCaller,
        patch: WebhookPatch,
        context: CallContext<'_>,
    ) -> Result<WebhookUpdated> {
        access::may_change_itself(key)?;
        let mut violations = Violations::default();
        self.validate_patch(&patch, &mut violations);
        violations.finish()?;
        let before = self.own_record(key.id, context).await?;
        self.change_webhook(before, patch, format!("key:{}", key.id), context).await
    }

    fn validate_patch(&self, patch: &WebhookPatch, violations: &mut Violations) {
        violations.webhook(&patch.url, &self.egress);
        violations.check(!patch.rotate_secret || !patch.url.is_empty(), "rotate_secret", "needs a webhook");
    }

    async fn change_webhook(
        &self,
        before: KeyRecord,
        patch: WebhookPatch,
        by: String,
        context: CallContext<'_>,
    ) -> Result<WebhookUpdated> {
        let at = self.clock.wall();
        if patch.url == before.webhook_url && !patch.rotate_secret && before.status(at) == KeyStatus::Active {
            // Nothing changes, so there is no event to write.
            return Ok(WebhookUpdated { key: before, webhook_secret: None });
        }
        let from = if patch.rotate_secret { before.webhook_version } else { 0 };
        let to = self.master_keys.next_webhook_version(from);
        let secret = SecretChange { from, to, former_until: at.saturating_add(SECRET_OVERLAP) };
        // A request with a new URL and a new secret is recorded as a change of the URL, so that a rotation cannot hide
        // it.
        let is_rotation = patch.rotate_secret && patch.url == before.webhook_url;
        let kind = if is_rotation { EventType::WebhookRotated } else { EventType::WebhookUpdated };
        let update = WebhookUpdate { url: patch.url, secret, at, by, event: self.ids.event_id(), kind };
        let change = context.bounded(self.store.set_webhook(before.id, update)).await?;
        let change = change.ok_or_else(Error::no_such_key)?;
        if !change.applied {
            let state = if change.key.status(self.clock.wall()) == KeyStatus::Revoked { "revoked" } else { "expired" };
            let message = format!("The key is {state}; its webhook cannot be changed");
            return Err(Error::new(ErrorKind::FailedPrecondition, "CONFLICT", message));
        }
        self.deliveries.notify_deliveries(&change.key);
        let (id, version) = (change.key.id, change.key.webhook_version);
        let is_new_secret = patch.rotate_secret || before.webhook_version == 0 && version > 0;
        let webhook_secret = is_new_secret.then(|| self.master_keys.webhook_secret(id, version)).flatten();
        Ok(WebhookUpdated { key: self.with_last_use(change.key), webhook_secret })
    }
}
