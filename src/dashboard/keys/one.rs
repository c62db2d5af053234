//! One key: its record, its events, and its webhook with deliveries.

use askama::Template;
use axum::{extract::Path, response::Response};
use http::StatusCode;

use super::row::KeyRow;
use crate::{
    dashboard::{
        activity::EventRow,
        chrome::{Chrome, Section},
        response::page as html,
        text::{self, Moment},
        viewer::Viewer,
    },
    domain::{
        clock::Micros,
        error::{Error, Result},
        key::{KeyRecord, KeyStatus},
    },
    service::audit::{Delivery, DeliveryState, DeliverySubject, ListEvents},
};

/// Events and deliveries on the page; the activity page has all.
const MAX_ROWS: u32 = 20;

/// A delivery in a table.
struct DeliveryRow {
    event: String,
    state: &'static str,
    attempts: i64,
    host: String,
    /// The status of the receiver's last answer, or why there was none.
    answer: String,
    /// The beginning of the receiver's response; operators only.
    response: String,
    last: Option<Moment>,
    /// When the next attempt is due, in words.
    next: String,
}

impl DeliveryRow {
    fn new(delivery: &Delivery, now: Micros) -> Self {
        let status = delivery.last_status.map(|status| format!("HTTP {status}"));
        let parts = [status.unwrap_or_default(), delivery.last_error.clone()];
        let pending = delivery.state == DeliveryState::Pending;
        Self {
            event: delivery.event.to_string(),
            state: delivery.state.name(),
            attempts: delivery.attempts,
            host: delivery.host.clone(),
            answer: parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", "),
            response: delivery.last_response.clone(),
            last: Moment::maybe(delivery.attempted_at, now),
            next: match delivery.next_attempt_at {
                _ if !pending => String::new(),
                due if due <= now => "due now".to_owned(),
                due => format!("next {}", Moment::new(due, now).words),
            },
        }
    }
}

#[derive(Template)]
#[template(path = "keys/one.html")]
struct OnePage {
    chrome: Chrome,
    row: KeyRow,
    keyspace: String,
    organization: String,
    instance: String,
    environment: String,
    revoked: Option<Moment>,
    revoked_by: String,
    reason: String,
    webhook: String,
    metadata: Vec<(String, String)>,
    rate_limit: String,
    events: Vec<EventRow>,
    deliveries: Vec<DeliveryRow>,
    /// Whether the caller may revoke it and change its webhook.
    may_change: bool,
    is_active: bool,
    once: String,
    /// What is wrong with the submitted webhook.
    problem: String,
    typed: String,
}

impl OnePage {
    fn activity_link(&self) -> String {
        self.chrome.link(&format!("/dashboard/activity?key={}&keyspace={}", self.row.id, self.keyspace))
    }
}

/// `GET /dashboard/settings/api-keys/{id}`
pub(in crate::dashboard) async fn page(viewer: Viewer, Path(id): Path<String>) -> Response {
    let result = show(&viewer, &id, String::new(), String::new()).await;
    viewer.answer(result)
}

/// A key that the caller may see; a text that is not an id names no key.
pub(super) async fn find(viewer: &Viewer, id: &str) -> Result<KeyRecord> {
    let key = viewer.service().keys.get(viewer.caller(), id, viewer.call()).await.map_err(no_such_key)?;
    viewer.context.set_key(key.id);
    Ok(key)
}

/// Replaces the error for a malformed id by the one for an id without a key.
pub(super) fn no_such_key(error: Error) -> Error {
    match error.fields.as_slice() {
        [only] if only.field == "id" => Error::no_such_key(),
        _ => error,
    }
}

/// The page, with the submitted webhook and what is wrong with it.
pub(super) async fn show(viewer: &Viewer, id: &str, problem: String, typed: String) -> Result<Response> {
    let key = find(viewer, id).await?;
    let (service, caller, now) = (viewer.service(), viewer.caller(), viewer.now());
    let request = ListEvents {
        keyspace: key.keyspace.clone(),
        binding: crate::domain::key::Binding { organization: key.binding.organization.clone(), ..Default::default() },
        key: key.id.to_string(),
        page_size: MAX_ROWS,
        ..ListEvents::default()
    };
    let events = service.audit.list_events(caller, request, viewer.call()).await?;
    let subject = DeliverySubject::Key(key.id.to_string());
    let deliveries = service.audit.list_deliveries(caller, &subject, MAX_ROWS, "", viewer.call()).await?;
    let status = if problem.is_empty() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    let rate_limit = key.rate_limit.map(|own| format!("{} in {} s", own.limit, own.window / 1_000_000));
    let template = OnePage {
        chrome: viewer.chrome(Section::Keys, &text::name(&key)),
        row: KeyRow::new(&key, now, 1),
        keyspace: key.keyspace.clone(),
        organization: key.binding.organization.clone(),
        instance: key.binding.instance.clone(),
        environment: key.binding.environment.clone(),
        revoked: Moment::maybe(key.revoked_at, now),
        revoked_by: text::actor(&key.revoked_by),
        reason: key.revoke_reason.clone(),
        webhook: key.webhook_url.clone(),
        metadata: key.metadata.clone().into_iter().collect(),
        rate_limit: rate_limit.unwrap_or_default(),
        events: events.events.iter().map(|event| EventRow::new(event, now)).collect(),
        deliveries: deliveries.deliveries.iter().map(|delivery| DeliveryRow::new(delivery, now)).collect(),
        may_change: viewer.manager()?.may_change(&key).is_ok(),
        is_active: key.status(now) == KeyStatus::Active,
        once: service.dashboard.new_form(),
        typed: if problem.is_empty() { key.webhook_url.clone() } else { typed },
        problem,
    };
    Ok(html(status, &template))
}
