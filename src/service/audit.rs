//! The audit log: events, and the deliveries of them to webhooks.

use std::sync::Arc;

use super::{
    context::CallContext,
    deliveries::DeliverySignal,
    ids::IdGenerator,
    keys::Keys,
    management::ManagementCalls,
    paging::{
        BindingFilter, MAX_PASSED_PAGES, PageTokens, filter, fitting, key_size, list_forms, page_size, stored_forms,
        text_part, texts_size,
    },
};
pub use crate::store::events::{Delivery, DeliveryState};
use crate::{
    domain::{
        access::Manager,
        caller::Caller,
        clock::{Clock, Micros},
        error::{Error, ErrorKind, Result},
        event::{Event, EventId, EventType},
        key::{Binding, KeyId, KeyRecord},
        keyspace::Registry,
        validation::{MAX_PAGE_SIZE, Violations},
    },
    store::{
        Store,
        events::{EventQuery, Redelivery},
        page::RowPage,
    },
};

/// The filters of a list of events; an empty field does not filter.
#[derive(Debug, Clone, Default)]
pub struct ListEvents {
    /// Events of keys of this keyspace.
    pub keyspace: String,
    /// Events of keys that are bound to this organization, instance and environment.
    pub binding: Binding,
    /// Events of the key with this id.
    pub key: String,
    /// Events of this type.
    pub kind: String,
    /// Events that this actor caused.
    pub actor: String,
    /// Events from this time on.
    pub start: Option<Micros>,
    /// Events before this time.
    pub end: Option<Micros>,
    /// Events in one page; 0 is the default.
    pub page_size: u32,
    /// Empty for the first page.
    pub page_token: String,
}

/// A page of events.
#[derive(Debug, Clone)]
pub struct EventPage {
    /// Newest first. Where filters fit few events, a page that is not the last one may have fewer than requested, or
    /// none.
    pub events: Vec<Event>,
    /// The token of the next page; none on the last one.
    pub next: Option<String>,
}

/// The deliveries to list.
#[derive(Debug, Clone)]
pub enum DeliverySubject {
    /// Those of the event with this id.
    Event(String),
    /// Those of all events of the key with this id.
    Key(String),
}

/// A page of deliveries.
#[derive(Debug, Clone)]
pub struct DeliveryPage {
    /// Newest event first.
    pub deliveries: Vec<Delivery>,
    /// The token of the next page; none on the last one.
    pub next: Option<String>,
}

/// Lists events and deliveries, and schedules redeliveries.
pub struct AuditLog {
    pub(super) store: Arc<dyn Store>,
    pub(super) registry: Arc<Registry>,
    pub(super) keys: Arc<Keys>,
    pub(super) calls: Arc<ManagementCalls>,
    pub(super) pages: PageTokens,
    pub(super) deliveries: Arc<DeliverySignal>,
    pub(super) ids: Arc<IdGenerator>,
    pub(super) clock: Arc<dyn Clock>,
}

impl AuditLog {
    /// A page of the events that the caller may see: those of keys that it may list.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT with every bad field; PERMISSION_DENIED; UNAVAILABLE; DEADLINE_EXCEEDED.
    pub async fn list_events(
        &self,
        caller: &Caller,
        request: ListEvents,
        context: CallContext<'_>,
    ) -> Result<EventPage> {
        let (manager, mut call) = self.calls.begin(caller)?;
        let mut violations = Violations::default();
        violations.binding(&request.binding);
        violations.identifier("keyspace", &request.keyspace);
        violations.actor("actor", &request.actor);
        let key = filter(request.key).and_then(|text| parsed(&mut violations, "key_id", text.parse::<KeyId>()));
        let kind = filter(request.kind).and_then(|text| {
            let kind = EventType::of_name(&text);
            violations.check(kind.is_some(), "type", "is not a type of event");
            kind
        });
        let backwards = request.start.zip(request.end).is_some_and(|(start, end)| start >= end);
        violations.check(!backwards, "end_time", "must be after the start");
        violations.check(request.page_size <= MAX_PAGE_SIZE, "page_size", "must be 0 to 1000");
        violations.finish()?;
        let Binding { organization, instance, environment } = request.binding;
        let mut binding = [filter(organization), filter(instance), filter(environment)];
        manager.restrict_filter(&mut binding)?;
        let keyspace = filter(manager.keyspace(&request.keyspace)?.to_owned());
        let forms = stored_forms(&binding);
        let [organization, instance, environment] = forms[0].clone();
        let page_size = page_size(request.page_size);
        let mut query = EventQuery {
            keyspace,
            organization,
            instance,
            environment,
            key,
            kind,
            actor: filter(request.actor),
            from: request.start.map(EventId::lowest),
            before: request.end.map(EventId::lowest),
            // One more than requested shows whether there is a next page.
            limit: page_size + 1,
        };
        let filters = filters(&query);
        if let Some(last) = self.pages.position(&filters, &request.page_token)? {
            query.before = Some(EventId(last));
        }
        call.acquire_page_permit(context).await?;
        let mut passed_pages = 0;
        loop {
            let of_form = |[organization, instance, environment]: BindingFilter| {
                let query = EventQuery { organization, instance, environment, ..query.clone() };
                context.bounded(self.store.list_events(query))
            };
            let page = list_forms(&forms, query.limit, |event: &Event| event.id.0, of_form).await?;
            let RowPage { rows: mut events, ended_at } = page;
            let fit = fitting(events.iter().map(event_size)).min(page_size as usize);
            let more = events.len() > fit;
            events.truncate(fit);
            let last = events.last().filter(|_| more).map(|last| last.id);
            // A key whose keyspace is no longer configured does not exist, and neither do its events.
            let configured = |key: &KeyRecord| self.registry.by_name(&key.keyspace).is_some();
            events.retain(|event| event.key.as_ref().is_none_or(configured));
            if events.is_empty() && last.is_some() && passed_pages < MAX_PASSED_PAGES {
                query.before = last;
                passed_pages += 1;
                continue;
            }
            let next = last.map(|last| last.0).or(ended_at).map(|last| self.pages.token(&filters, last));
            return Ok(EventPage { events, next });
        }
    }

    /// A page of deliveries. To a caller that may not see an event, the event does not exist.
    ///
    /// # Errors
    ///
    /// Those of [`Self::list_events`], and NOT_FOUND.
    pub async fn list_deliveries(
        &self,
        caller: &Caller,
        subject: &DeliverySubject,
        requested_page_size: u32,
        page_token: &str,
        context: CallContext<'_>,
    ) -> Result<DeliveryPage> {
        let (manager, mut call) = self.calls.begin(caller)?;
        let mut violations = Violations::default();
        violations.check(requested_page_size <= MAX_PAGE_SIZE, "page_size", "must be 0 to 1000");
        let key = match subject {
            DeliverySubject::Event(id) => {
                let id = parsed(&mut violations, "event_id", id.parse::<EventId>());
                violations.finish()?;
                let Some(id) = id else { return Err(no_such_event()) };
                self.visible_event(manager, id, context).await?;
                let delivery = context.bounded(self.store.find_delivery(id)).await?;
                let deliveries = delivery.map(|delivery| redacted(manager, delivery)).into_iter().collect();
                return Ok(DeliveryPage { deliveries, next: None });
            }
            DeliverySubject::Key(id) => parsed(&mut violations, "key_id", id.parse::<KeyId>()),
        };
        violations.finish()?;
        let Some(key) = key else { return Err(Error::no_such_key()) };
        self.keys.visible(manager, key, context).await?;
        let filters = vec![b"deliveries".to_vec(), key.0.as_bytes().to_vec()];
        let before = self.pages.position(&filters, page_token)?.map(EventId);
        let page_size = page_size(requested_page_size);
        call.acquire_page_permit(context).await?;
        let listing = self.store.deliveries_of_key(key, before, page_size + 1);
        let mut deliveries = context.bounded(listing).await?;
        let more = deliveries.len() > page_size as usize;
        deliveries.truncate(page_size as usize);
        let next = deliveries.last().filter(|_| more).map(|last| self.pages.token(&filters, last.event.0));
        let deliveries = deliveries.into_iter().map(|delivery| redacted(manager, delivery)).collect();
        Ok(DeliveryPage { deliveries, next })
    }

    /// Schedules the delivery of an event again.
    ///
    /// # Errors
    ///
    /// Those of [`Self::list_deliveries`], and FAILED_PRECONDITION for a key without a webhook.
    pub async fn redeliver(&self, caller: &Caller, id: &str, context: CallContext<'_>) -> Result<Delivery> {
        let (manager, _call) = self.calls.begin(caller)?;
        let mut violations = Violations::default();
        let id = parsed(&mut violations, "event_id", id.parse::<EventId>());
        violations.finish()?;
        let Some(id) = id else { return Err(no_such_event()) };
        let conflict = |message: &str| Error::new(ErrorKind::FailedPrecondition, "CONFLICT", message.to_owned());
        let none = || conflict("The key has no webhook");
        let event = self.visible_event(manager, id, context).await?;
        if !event.kind.is_for_webhooks() {
            return Err(conflict("Events of this type are in the audit log only and are not sent to webhooks"));
        }
        manager.may_change(&event.key.ok_or_else(none)?)?;
        let redelivery = Redelivery { at: self.clock.wall(), by: caller.actor(), event: self.ids.event_id() };
        let delivery = context.bounded(self.store.redeliver(id, redelivery)).await?;
        let delivery = delivery.ok_or_else(none)?;
        self.deliveries.notify();
        Ok(redacted(manager, delivery))
    }

    /// An event of a key that the manager may see, or, for an operator, any other event. Otherwise the answer is
    /// exactly that for an id that does not exist.
    async fn visible_event(&self, manager: Manager<'_>, id: EventId, context: CallContext<'_>) -> Result<Event> {
        let event = context.bounded(self.store.find_event(id)).await?;
        let is_visible = |event: &Event| match &event.key {
            Some(key) => self.registry.by_name(&key.keyspace).is_some() && manager.sees(key),
            None => matches!(manager, Manager::Operator),
        };
        let event = event.filter(is_visible).ok_or_else(no_such_event)?;
        if let Some(key) = &event.key {
            manager.may_read(key)?;
        }
        Ok(event)
    }
}

/// About how many bytes an event takes in a message.
fn event_size(event: &Event) -> usize {
    event.key.as_ref().map_or(0, key_size) + texts_size(&event.details)
}

/// A delivery as the manager may see it. Only operators see the receiver's response: otherwise whoever chooses the URL
/// could read responses of hosts that are reachable only from this server.
fn redacted(manager: Manager<'_>, delivery: Delivery) -> Delivery {
    match manager {
        Manager::Operator => delivery,
        Manager::Admin(_) | Manager::Session(_) => Delivery { last_response: String::new(), ..delivery },
    }
}

/// A parsed id; an invalid one is added to the violations.
fn parsed<T, E: ToString>(
    violations: &mut Violations,
    field: &'static str,
    read: std::result::Result<T, E>,
) -> Option<T> {
    read.map_err(|why| violations.add(field, why.to_string())).ok()
}

fn no_such_event() -> Error {
    Error::new(ErrorKind::NotFound, "NOT_FOUND", "No such event")
}

/// The parts of a query that its page tokens cover: the filters, restricted to what the caller may see.
fn filters(query: &EventQuery) -> Vec<Vec<u8>> {
    let id = |part: Option<EventId>| part.map_or(Vec::new(), |id| id.0.as_bytes().to_vec());
    vec![
        b"events".to_vec(),
        text_part(query.keyspace.as_deref()),
        text_part(query.organization.as_deref()),
        text_part(query.instance.as_deref()),
        text_part(query.environment.as_deref()),
        query.key.map_or(Vec::new(), |key| key.0.as_bytes().to_vec()),
        text_part(query.kind.map(EventType::name)),
        text_part(query.actor.as_deref()),
        id(query.from),
        id(query.before),
    ]
}
