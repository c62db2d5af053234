//! List keys: filters, access and pages.

use super::Keys;
use crate::{
    domain::{
        caller::Caller,
        clock::Micros,
        error::Result,
        event::EventId,
        key::{Binding, KeyId, KeyRecord, KeyStatus},
        validation::{MAX_PAGE_SIZE, Violations},
    },
    service::{
        context::CallContext,
        paging::{
            BindingFilter, MAX_PASSED_PAGES, filter, fitting, key_size, list_forms, page_size, stored_forms, text_part,
        },
    },
    store::{ListQuery, page::RowPage},
};

/// The filters of a list of keys; an empty field does not filter.
#[derive(Debug, Clone, Default)]
pub struct ListKeys {
    /// Keys of this keyspace.
    pub keyspace: String,
    /// Keys that are bound to this organization, instance and environment.
    pub binding: Binding,
    /// Keys of this status.
    pub status: Option<KeyStatus>,
    /// Keys that this actor created.
    pub created_by: String,
    /// Keys that were created before this time.
    pub created_before: Option<Micros>,
    /// Keys in one page; 0 is the default.
    pub page_size: u32,
    /// Empty for the first page.
    pub page_token: String,
}

impl ListKeys {
    /// Checks the filters and the size of a page.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT with every bad field.
    pub(super) fn validate(&self) -> Result<()> {
        let mut violations = Violations::default();
        violations.binding(&self.binding);
        violations.identifier("keyspace", &self.keyspace);
        violations.actor("created_by", &self.created_by);
        violations.check(self.page_size <= MAX_PAGE_SIZE, "page_size", "must be 0 to 1000");
        violations.finish()
    }
}

/// A page of keys.
#[derive(Debug, Clone)]
pub struct Page {
    /// Newest first. Where filters fit few keys, a page that is not the last one may have fewer than requested, or
    /// none.
    pub keys: Vec<KeyRecord>,
    /// The token of the next page; none on the last one.
    pub next: Option<String>,
}

impl Keys {
    /// A page of the keys that the caller may see.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT with every bad field; PERMISSION_DENIED; UNAVAILABLE; DEADLINE_EXCEEDED.
    pub async fn list(&self, caller: &Caller, request: ListKeys, context: CallContext<'_>) -> Result<Page> {
        let (manager, mut call) = self.calls.begin(caller)?;
        request.validate()?;
        let Binding { organization, instance, environment } = request.binding;
        let mut binding = [filter(organization), filter(instance), filter(environment)];
        manager.restrict_filter(&mut binding)?;
        let keyspace = filter(manager.keyspace(&request.keyspace)?.to_owned());
        let forms = stored_forms(&binding);
        let [organization, instance, environment] = forms[0].clone();
        let page_size = page_size(request.page_size);
        let mut query = ListQuery {
            keyspace,
            organization,
            instance,
            environment,
            status: request.status,
            created_by: filter(request.created_by),
            before: None,
            // One more than requested shows whether there is a next page.
            limit: page_size + 1,
            now: self.clock.wall(),
        };
        let filters = filters(&query);
        query.before = self.pages.position(&filters, &request.page_token)?.map(KeyId);
        call.acquire_page_permit(context).await?;
        let mut passed_pages = 0;
        if query.before.is_none() {
            // The id holds the time of the creation.
            query.before = request.created_before.map(|at| KeyId(EventId::lowest(at).0));
        }
        loop {
            let of_form = |[organization, instance, environment]: BindingFilter| {
                let query = ListQuery { organization, instance, environment, ..query.clone() };
                context.bounded(self.store.list_keys(query))
            };
            let page = list_forms(&forms, query.limit, |key: &KeyRecord| key.id.0, of_form).await?;
            let RowPage { rows: mut keys, ended_at } = page;
            let fit = fitting(keys.iter().map(key_size)).min(page_size as usize);
            let more = keys.len() > fit;
            keys.truncate(fit);
            let last = keys.last().filter(|_| more).map(|last| last.id);
            // A key whose keyspace is no longer configured does not exist, in this list as in any other answer.
            keys.retain(|key| self.registry.by_name(&key.keyspace).is_some());
            if keys.is_empty() && last.is_some() && passed_pages < MAX_PASSED_PAGES {
                query.before = last;
                passed_pages += 1;
                continue;
            }
            let next = last.map(|last| last.0).or(ended_at).map(|last| self.pages.token(&filters, last));
            return Ok(Page { keys: keys.into_iter().map(|key| self.with_last_use(key)).collect(), next });
        }
    }
}

/// The parts of a query that its page tokens cover: the filters, restricted to what the caller may see.
fn filters(query: &ListQuery) -> Vec<Vec<u8>> {
    vec![
        text_part(query.keyspace.as_deref()),
        text_part(query.organization.as_deref()),
        text_part(query.instance.as_deref()),
        text_part(query.environment.as_deref()),
        text_part(query.created_by.as_deref()),
        vec![query.status.map_or(0, |status| status as u8 + 1)],
    ]
}
