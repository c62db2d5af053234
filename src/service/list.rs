//! List: filters, access and pages.

use uuid::Uuid;

use super::{Context, Service, keys::bounded};
use crate::{
    domain::{
        access,
        caller::Caller,
        error::{Error, Result},
        key::{Binding, KeyId, KeyRecord, KeyStatus},
        page_token,
        validation::{DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Violations},
    },
    store::ListQuery,
};

/// About how many bytes a page may hold, however many keys were asked for: most gRPC clients take no message past 4 MiB.
const PAGE_BYTES: usize = 3 << 20;

/// What to list; an empty field does not filter.
#[derive(Debug, Clone, Default)]
pub struct ListKeys {
    /// Keyspace.
    pub keyspace: String,
    /// Organization, instance, environment.
    pub binding: Binding,
    /// Status.
    pub status: Option<KeyStatus>,
    /// Who made the key.
    pub created_by: String,
    /// 0 is the default.
    pub page_size: u32,
    /// Empty for the first page.
    pub page_token: String,
}

/// A page of keys.
#[derive(Debug, Clone)]
pub struct Page {
    /// Newest first.
    pub keys: Vec<KeyRecord>,
    /// Gives the next page; none on the last one.
    pub next: Option<String>,
}

impl Service {
    /// A page of the keys that the caller may see.
    pub async fn list(&self, caller: &Caller, request: ListKeys, context: Context<'_>) -> Result<Page> {
        let manager = access::may_manage(caller)?;
        let mut violations = Violations::default();
        violations.binding(&request.binding);
        violations.bound("keyspace", &request.keyspace);
        violations.actor("created_by", &request.created_by);
        violations.check(request.page_size <= MAX_PAGE_SIZE, "page_size", "must be 0 to 1000");
        violations.finish()?;
        let Binding { organization, instance, environment } = request.binding;
        let mut binding = [named(organization), named(instance), named(environment)];
        manager.confine_filter(&mut binding)?;
        let keyspace = named(manager.keyspace(&request.keyspace)?.to_owned());
        let [organization, instance, environment] = binding;
        let page_size = page_size(request.page_size);
        let mut query = ListQuery {
            keyspace,
            organization,
            instance,
            environment,
            status: request.status,
            created_by: named(request.created_by),
            before: None,
            // One more than asked for tells whether there is a next page.
            limit: page_size + 1,
            now: self.now(),
        };
        let filters = filters(&query);
        query.before = self.position(&filters, &request.page_token)?.map(KeyId);
        loop {
            let mut keys = bounded(context, self.store.list_keys(query.clone())).await?;
            let fit = fitting(keys.iter()).min(page_size as usize);
            let more = keys.len() > fit;
            keys.truncate(fit);
            let last = keys.last().filter(|_| more).map(|last| last.id);
            // A key whose keyspace is gone does not exist, here as anywhere.
            keys.retain(|key| self.registry.by_name(&key.keyspace).is_some());
            if keys.is_empty() && last.is_some() {
                query.before = last;
                continue;
            }
            let next = last.map(|last| self.token(&filters, last.0));
            return Ok(Page { keys: keys.into_iter().map(|key| self.with_last_use(key)).collect(), next });
        }
    }
}

impl Service {
    /// Gives the page after `last`, whatever kind of UUID that is: the filters tell.
    pub(super) fn token(&self, filters: &[Vec<u8>], last: Uuid) -> String {
        page_token::token(&self.master_keys, &parts(filters), KeyId(last))
    }

    /// Where a page begins; none for the first one.
    pub(super) fn position(&self, filters: &[Vec<u8>], token: &str) -> Result<Option<Uuid>> {
        if token.is_empty() {
            return Ok(None);
        }
        let last = page_token::position(&self.master_keys, &parts(filters), token);
        let last = last.ok_or_else(|| Error::invalid("page_token", "is not a token of this query"))?;
        Ok(Some(last.0))
    }
}

fn parts(filters: &[Vec<u8>]) -> Vec<&[u8]> {
    filters.iter().map(Vec::as_slice).collect()
}

/// 0 asks for the default.
pub(super) fn page_size(asked: u32) -> u32 {
    if asked == 0 { DEFAULT_PAGE_SIZE } else { asked }
}

/// How many of the keys fit on one page; one always does.
pub(super) fn fitting<'a>(keys: impl Iterator<Item = &'a KeyRecord>) -> usize {
    let mut bytes = 0;
    let fit = keys.take_while(|key| {
        bytes += size(key);
        bytes <= PAGE_BYTES
    });
    fit.count().max(1)
}

/// About how many bytes a key takes in a message.
fn size(key: &KeyRecord) -> usize {
    /// Id, prefix, times and the framing of a field.
    const FIXED: usize = 200;
    const FRAMING: usize = 8;
    let Binding { organization, instance, environment } = &key.binding;
    let texts = [organization, instance, environment, &key.name, &key.revoke_reason, &key.webhook_url];
    let scopes = key.scopes.iter().map(|scope| scope.len() + FRAMING);
    let metadata = key.metadata.iter().map(|(key, value)| key.len() + value.len() + FRAMING);
    FIXED + texts.map(String::len).iter().sum::<usize>() + scopes.sum::<usize>() + metadata.sum::<usize>()
}

/// A filter that is given.
pub(super) fn named(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// What makes two pages belong to one query: the filters as they are after the caller's own limits.
fn filters(query: &ListQuery) -> Vec<Vec<u8>> {
    let text = |part: &Option<String>| part.as_ref().map_or(Vec::new(), |text| [b"=", text.as_bytes()].concat());
    vec![
        text(&query.keyspace),
        text(&query.organization),
        text(&query.instance),
        text(&query.environment),
        text(&query.created_by),
        vec![query.status.map_or(0, |status| status as u8 + 1)],
    ]
}
