//! Search for keys: by name, prefix or id, those that expire soon, and those that nobody uses.

use super::{
    Keys,
    list::{ListKeys, Page},
};
use crate::{
    domain::{
        caller::Caller,
        clock::{Micros, SECOND},
        error::Result,
        key::{Binding, KeyId, KeyRecord, KeyStatus},
        secret::DISPLAY_PREFIX_LEN,
        text,
        validation::{MAX_NAME_LEN, Violations},
    },
    service::{
        context::CallContext,
        paging::{filter, page_size},
    },
    store::keys::{FoundKeys, KeySearch, SearchQuery},
};

/// What to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Find {
    /// Keys whose name begins like this; or the key with this id; or those whose secret begins like this.
    Text(String),
    /// Keys that are not revoked and expire within this time, the soonest first.
    ExpiringWithin(Micros),
    /// Active keys that are at least this old and were not used for as long, newest first.
    UnusedFor(Micros),
}

/// What a search found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The keys.
    pub page: Page,
    /// Whether every key that the search could find was examined.
    pub is_whole: bool,
}

/// Maximum number of keys that one call examines to find unused ones.
const MAX_EXAMINED_KEYS: u32 = 2_000;

impl Keys {
    /// The keys that a search finds among those that the caller may see. `request` has the filters of a list; only
    /// [`Find::UnusedFor`] has pages. Any other search returns at most one page, and [`Page::next`] is not meaningful.
    ///
    /// A filter is applied to a bounded number of keys: if more keys have the same beginning, [`Found::is_whole`] is
    /// false.
    ///
    /// # Errors
    ///
    /// Those of [`Self::list`].
    pub async fn search(
        &self,
        caller: &Caller,
        find: Find,
        request: ListKeys,
        context: CallContext<'_>,
    ) -> Result<Found> {
        let whole = |page| Found { page, is_whole: true };
        let search = match find {
            Find::UnusedFor(time) => return self.unused(caller, time, request, context).await.map(whole),
            Find::ExpiringWithin(time) => KeySearch::ExpiresBefore(self.clock.wall().saturating_add(time)),
            Find::Text(mut text) => {
                text::normalize(&mut text);
                let mut violations = Violations::default();
                violations.check(text.chars().count() <= MAX_NAME_LEN, "search", "must be at most 200 characters");
                violations.check(!text.contains(char::is_control), "search", "must not hold control characters");
                violations.finish()?;
                if let Ok(id) = text.parse::<KeyId>() {
                    let (manager, _call) = self.calls.begin(caller)?;
                    let found = self.visible(manager, id, context).await;
                    return Ok(whole(Page { keys: found.into_iter().collect(), next: None }));
                }
                match self.registry.by_prefix(&text) {
                    // The stored prefix of a secret is sufficient, so drop the rest of it.
                    Some(_) if text.len() >= DISPLAY_PREFIX_LEN => {
                        KeySearch::Prefix(text.chars().take(DISPLAY_PREFIX_LEN).collect())
                    }
                    _ => KeySearch::Name(text),
                }
            }
        };
        let (manager, mut call) = self.calls.begin(caller)?;
        request.validate()?;
        let Binding { organization, instance, environment } = request.binding;
        let mut binding = [filter(organization), filter(instance), filter(environment)];
        manager.restrict_filter(&mut binding)?;
        let keyspace = filter(manager.keyspace(&request.keyspace)?.to_owned());
        let [organization, instance, environment] = binding;
        let query = SearchQuery {
            search,
            keyspace,
            organization,
            instance,
            environment,
            status: request.status,
            created_by: filter(request.created_by),
            now: self.clock.wall(),
            limit: page_size(request.page_size),
        };
        call.acquire_page_permit(context).await?;
        let FoundKeys { mut keys, is_whole } = context.bounded(self.store.search_keys(query)).await?;
        keys.retain(|key| self.registry.by_name(&key.keyspace).is_some());
        let keys = keys.into_iter().map(|key| self.with_last_use(key)).collect();
        Ok(Found { page: Page { keys, next: None }, is_whole })
    }

    /// Keys that nobody uses. The last use is in no index, so a bounded number of keys is examined, starting with the
    /// newest one that is old enough; the page may be empty although there is a next one.
    async fn unused(&self, caller: &Caller, time: Micros, request: ListKeys, context: CallContext<'_>) -> Result<Page> {
        let before = self.clock.wall().saturating_sub(time.max(SECOND));
        let mut found: Vec<KeyRecord> = Vec::new();
        let mut token = request.page_token.clone();
        let limit = page_size(request.page_size);
        for _ in 0..MAX_EXAMINED_KEYS / limit.max(1) {
            let list = ListKeys {
                status: Some(KeyStatus::Active),
                created_before: Some(before),
                page_size: limit,
                page_token: token,
                ..request.clone()
            };
            let page = self.list(caller, list, context).await?;
            found.extend(page.keys.into_iter().filter(|key| key.last_used_at.is_none_or(|at| at < before)));
            let full = found.len() >= limit as usize;
            match page.next {
                Some(next) if !full => token = next,
                next => return Ok(Page { keys: found, next }),
            }
        }
        Ok(Page { keys: found, next: Some(token) })
    }
}
