//! The audit log, with filters, as a page and as CSV.

use std::collections::HashMap;

use askama::Template;
use axum::{extract::RawQuery, response::Response};
use http::StatusCode;
use time::{Date, macros::format_description};

use super::{
    chrome::{Chrome, Section},
    response::{download, page as html},
    text::{self, DAY, Moment},
    viewer::Viewer,
};
use crate::{
    domain::{
        caller::Caller,
        clock::{Micros, SECOND},
        error::{Error, Result},
        event::{Event, EventType},
        key::{Binding, KeyRecord},
    },
    service::audit::{EventPage, ListEvents},
};

/// Events on a page.
const PAGE_SIZE: u32 = 50;
/// Events in a file: the newest ones of the filter.
const MAX_EXPORTED: usize = 10_000;

/// An event in a list.
pub(super) struct EventRow {
    pub(super) kind: &'static str,
    /// The event in words.
    pub(super) what: String,
    pub(super) at: Moment,
    pub(super) actor: String,
    /// Empty for an event that is about no key.
    pub(super) key_id: String,
    pub(super) key_name: String,
    /// What changed.
    pub(super) detail: String,
}

impl EventRow {
    pub(super) fn new(event: &Event, now: Micros) -> Self {
        Self {
            kind: event.kind.name(),
            what: what(event.kind).to_owned(),
            at: Moment::new(event.id.at(), now),
            actor: text::actor(&event.actor),
            key_id: event.key.as_ref().map(|key| key.id.to_string()).unwrap_or_default(),
            key_name: event.key.as_ref().map(text::name).unwrap_or_default(),
            detail: detail(event),
        }
    }
}

fn what(kind: EventType) -> &'static str {
    match kind {
        EventType::KeyCreated => "Created",
        EventType::KeyRevoked => "Revoked",
        EventType::KeyExpiring => "Expires soon",
        EventType::KeyExpired => "Expired",
        EventType::KeyRateLimited => "Rate limited",
        EventType::WebhookUpdated => "Webhook changed",
        EventType::WebhookRotated => "Webhook secret rotated",
        EventType::WebhookDisabled => "Webhook disabled",
        EventType::EventRedelivered => "Delivered again",
        EventType::CallDenied => "Calls denied",
        EventType::AuthenticationFailed => "Credentials refused",
        EventType::SignedIn => "Signed in",
        EventType::SignedOut => "Signed out",
    }
}

fn detail(event: &Event) -> String {
    let Some(key) = &event.key else { return details(event) };
    match event.kind {
        EventType::KeyCreated => {
            let scopes = if key.scopes.is_empty() { "no scopes".to_owned() } else { key.scopes.join(", ") };
            let expiry =
                key.expires_at.map_or_else(|| "does not expire".to_owned(), |at| format!("until {}", text::date(at)));
            format!("{scopes}; {expiry}")
        }
        EventType::KeyRevoked if key.revoke_reason.is_empty() => String::new(),
        EventType::KeyRevoked => format!("reason: {}", key.revoke_reason),
        EventType::KeyExpiring | EventType::KeyExpired => key.expires_at.map(text::full).unwrap_or_default(),
        EventType::KeyRateLimited => "calls over the limit were refused".to_owned(),
        EventType::WebhookUpdated if key.webhook_url.is_empty() => "removed".to_owned(),
        EventType::WebhookUpdated => format!("to {}", key.webhook_url),
        EventType::WebhookDisabled => "the receiver answered 410 Gone".to_owned(),
        EventType::WebhookRotated => format!("of {}", key.webhook_url),
        EventType::EventRedelivered
        | EventType::CallDenied
        | EventType::AuthenticationFailed
        | EventType::SignedIn
        | EventType::SignedOut => details(event),
    }
}

/// The details of an event, in addition to its key.
fn details(event: &Event) -> String {
    event.details.iter().map(|(name, text)| format!("{name}: {text}")).collect::<Vec<_>>().join(", ")
}

/// The filters, as the query names them.
#[derive(Debug, Clone, Default)]
struct Filters {
    kind: String,
    key: String,
    actor: String,
    organization: String,
    keyspace: String,
    since: String,
    until: String,
    cursor: String,
}

impl Filters {
    fn of(query: &str) -> Self {
        let mut given: HashMap<String, String> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let mut take = |name: &str| given.remove(name).unwrap_or_default().trim().to_owned();
        Self {
            kind: take("type"),
            key: take("key"),
            actor: take("actor"),
            organization: take("organization"),
            keyspace: take("keyspace"),
            since: take("since"),
            until: take("until"),
            cursor: take("cursor"),
        }
    }

    fn query(&self, cursor: &str) -> String {
        let own = [
            ("type", self.kind.as_str()),
            ("key", &self.key),
            ("actor", &self.actor),
            ("organization", &self.organization),
            ("keyspace", &self.keyspace),
            ("since", &self.since),
            ("until", &self.until),
            ("cursor", cursor),
        ];
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in own.into_iter().filter(|(_, value)| !value.is_empty()) {
            query.append_pair(name, value);
        }
        query.finish()
    }

    fn request(&self, page_size: u32, cursor: &str) -> Result<ListEvents> {
        let actor = match self.actor.as_str() {
            "" | "root" | "public" | "keyward" => self.actor.clone(),
            named if ["key:", "user:", "san:", "system:"].iter().any(|begin| named.starts_with(begin)) => {
                self.actor.clone()
            }
            key if key.starts_with("key_") => format!("key:{key}"),
            person => format!("user:{person}"),
        };
        Ok(ListEvents {
            keyspace: self.keyspace.clone(),
            binding: Binding { organization: self.organization.clone(), ..Binding::default() },
            key: self.key.clone(),
            kind: self.kind.clone(),
            actor,
            start: day("since", &self.since)?,
            // The whole of the last day.
            end: day("until", &self.until)?.map(|start| start.saturating_add(DAY)),
            page_size,
            page_token: cursor.to_owned(),
        })
    }
}

/// The beginning of a day in UTC; `None` for an empty text.
fn day(field: &'static str, text: &str) -> Result<Option<Micros>> {
    if text.is_empty() {
        return Ok(None);
    }
    let date = Date::parse(text, format_description!("[year]-[month]-[day]"));
    let date = date.map_err(|_| Error::invalid(field, "must be a date such as 2027-01-31"))?;
    Ok(Some(date.midnight().assume_utc().unix_timestamp().saturating_mul(SECOND)))
}

#[derive(Template)]
#[template(path = "activity.html")]
struct ActivityPage {
    chrome: Chrome,
    filters: Filters,
    types: Vec<(&'static str, &'static str)>,
    keyspaces: Vec<String>,
    by_organization: bool,
    rows: Vec<EventRow>,
    next: String,
    csv: String,
}

/// The filters of a query, and the keyspaces to choose from. A person of several keyspaces has to name one.
fn filters(viewer: &Viewer, query: Option<String>) -> Result<(Filters, Vec<String>)> {
    let manager = viewer.manager()?;
    let mut filters = Filters::of(&query.unwrap_or_default());
    let registry = &viewer.service().registry;
    let mut keyspaces: Vec<String> = registry.all().iter().map(|keyspace| keyspace.name.clone()).collect();
    keyspaces.retain(|name| manager.keyspace(name).is_ok());
    if filters.keyspace.is_empty() && manager.keyspace("").is_err() {
        filters.keyspace = keyspaces.first().cloned().unwrap_or_default();
    }
    Ok((filters, keyspaces))
}

/// `GET /dashboard/activity`
pub(super) async fn page(viewer: Viewer, RawQuery(query): RawQuery) -> Response {
    let result = show(&viewer, query).await;
    viewer.answer(result)
}

async fn show(viewer: &Viewer, query: Option<String>) -> Result<Response> {
    let (filters, keyspaces) = filters(viewer, query)?;
    let request = filters.request(PAGE_SIZE, &filters.cursor)?;
    let EventPage { events, next } =
        viewer.service().audit.list_events(viewer.caller(), request, viewer.call()).await?;
    let now = viewer.now();
    let chrome = viewer.chrome(Section::Activity, "Activity");
    let template = ActivityPage {
        types: EventType::ALL.map(|kind| (kind.name(), what(kind))).to_vec(),
        by_organization: matches!(viewer.caller(), Caller::Operator { .. }),
        keyspaces: if keyspaces.len() > 1 { keyspaces } else { Vec::new() },
        rows: events.iter().map(|event| EventRow::new(event, now)).collect(),
        next: next
            .map(|next| chrome.link(&format!("/dashboard/activity?{}", filters.query(&next))))
            .unwrap_or_default(),
        csv: chrome.link(&format!("/dashboard/activity.csv?{}", filters.query(""))),
        chrome,
        filters,
    };
    Ok(html(StatusCode::OK, &template))
}

/// `GET /dashboard/activity.csv`
pub(super) async fn csv(viewer: Viewer, RawQuery(query): RawQuery) -> Response {
    let result = export(&viewer, query).await;
    viewer.answer(result)
}

async fn export(viewer: &Viewer, query: Option<String>) -> Result<Response> {
    let (filters, _) = filters(viewer, query)?;
    let mut text = "time,type,actor,key,name,prefix,keyspace,organization,instance,environment,detail\r\n".to_owned();
    let (mut cursor, mut count) = (String::new(), 0);
    loop {
        let request = filters.request(1_000, &cursor)?;
        let EventPage { events, next } =
            viewer.service().audit.list_events(viewer.caller(), request, viewer.call()).await?;
        count += events.len();
        for event in &events {
            let row = EventRow::new(event, event.id.at());
            let key = event.key.as_ref();
            let own = key.map(|key| key.binding.clone()).unwrap_or_default();
            let of_key = |text: fn(&KeyRecord) -> &String| key.map(|key| text(key).clone()).unwrap_or_default();
            let (name, prefix, keyspace) =
                (of_key(|key| &key.name), of_key(|key| &key.prefix), of_key(|key| &key.keyspace));
            let cells = [
                row.at.machine.as_str(),
                row.kind,
                &event.actor,
                &row.key_id,
                &name,
                &prefix,
                &keyspace,
                &own.organization,
                &own.instance,
                &own.environment,
                &row.detail,
            ];
            text.push_str(&cells.map(cell).join(","));
            text.push_str("\r\n");
        }
        match next {
            Some(next) if count < MAX_EXPORTED => cursor = next,
            _ => break,
        }
    }
    Ok(download("text/csv; charset=utf-8", "activity.csv", text))
}

/// A cell. Spreadsheets read some texts as formulas, so these get an apostrophe as a prefix.
fn cell(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_no_formula_and_keeps_its_column() {
        for (text, expected) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("=1+1", "'=1+1"),
            ("@sum", "'@sum"),
            ("-1,2", "\"'-1,2\""),
            ("two\nlines", "\"two\nlines\""),
        ] {
            assert_eq!(cell(text), expected);
        }
    }

    #[test]
    fn a_day_is_one_of_the_calendar() {
        assert_eq!(day("since", "").unwrap(), None);
        assert_eq!(day("since", "1970-01-02").unwrap(), Some(DAY));
        assert_eq!(day("since", "1970-02-30").unwrap_err().fields[0].field, "since");
    }
}
