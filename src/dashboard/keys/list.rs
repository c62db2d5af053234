//! The list of keys, with its filters and its search.

use std::collections::HashMap;

use askama::Template;
use axum::{extract::RawQuery, response::Response};
use http::StatusCode;

use super::{PATH, row::KeyRow};
use crate::{
    dashboard::{
        chrome::{Chrome, Section},
        response::{page as html, see_other},
        text::DAY,
        viewer::Viewer,
    },
    domain::{
        caller::Caller,
        error::Result,
        key::{Binding, KeyStatus},
        secret::DISPLAY_PREFIX_LEN,
    },
    service::keys::{
        list::{ListKeys, Page},
        search::{Find, Found},
    },
};

/// Keys on a page.
const PAGE_SIZE: u32 = 50;
/// Keys that were not used for this long are unused.
const UNUSED_DAYS: i64 = 90;
/// Keys that expire within this time expire soon.
const EXPIRING_DAYS: i64 = 7;

/// The filters of the list, as the query names them.
#[derive(Debug, Clone, Default)]
pub(super) struct Filters {
    pub(super) search: String,
    pub(super) status: String,
    pub(super) keyspace: String,
    pub(super) organization: String,
    pub(super) instance: String,
    pub(super) environment: String,
    pub(super) created_by: String,
    /// `unused` or `expiring`; empty for neither.
    pub(super) only: String,
    pub(super) cursor: String,
}

impl Filters {
    fn of(query: &str) -> Self {
        let mut given: HashMap<String, String> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let mut take = |name: &str| given.remove(name).unwrap_or_default().trim().to_owned();
        Self {
            search: take("q"),
            status: take("status"),
            keyspace: take("keyspace"),
            organization: take("organization"),
            instance: take("instance"),
            environment: take("environment"),
            created_by: take("created_by"),
            only: take("only"),
            cursor: take("cursor"),
        }
    }

    /// The query of these filters with some of them changed; empty ones are left out.
    fn query(&self, changes: &[(&str, &str)]) -> String {
        let own = [
            ("q", &self.search),
            ("status", &self.status),
            ("keyspace", &self.keyspace),
            ("organization", &self.organization),
            ("instance", &self.instance),
            ("environment", &self.environment),
            ("created_by", &self.created_by),
            ("only", &self.only),
        ];
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in own {
            let value = changes.iter().find(|(changed, _)| *changed == name).map_or(value.as_str(), |(_, value)| value);
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        for (name, value) in changes.iter().filter(|(name, _)| *name == "cursor") {
            query.append_pair(name, value);
        }
        query.finish()
    }

    /// Whether any filter is set.
    pub(super) fn narrows(&self) -> bool {
        !self.query(&[]).is_empty()
    }

    /// Whether a filter beyond status and search is set.
    fn narrows_more(&self) -> bool {
        [&self.keyspace, &self.organization, &self.instance, &self.environment, &self.created_by]
            .iter()
            .any(|value| !value.is_empty())
    }

    fn list(&self) -> ListKeys {
        ListKeys {
            keyspace: self.keyspace.clone(),
            binding: Binding {
                organization: self.organization.clone(),
                instance: self.instance.clone(),
                environment: self.environment.clone(),
            },
            status: match self.status.as_str() {
                "active" => Some(KeyStatus::Active),
                "revoked" => Some(KeyStatus::Revoked),
                "expired" => Some(KeyStatus::Expired),
                _ => None,
            },
            created_by: self.created_by.clone(),
            created_before: None,
            page_size: PAGE_SIZE,
            page_token: self.cursor.clone(),
        }
    }
}

#[derive(Template)]
#[template(path = "keys/list.html")]
struct ListPage {
    chrome: Chrome,
    filters: Filters,
    rows: Vec<KeyRow>,
    /// The names of the keyspaces to filter by; empty where there is one.
    keyspaces: Vec<String>,
    /// Whether the organization is a filter: for operators.
    by_organization: bool,
    next: String,
    /// A note about keys that the page does not show.
    note: String,
    can_create: bool,
    more_filters: bool,
}

impl ListPage {
    /// A link to the list with another status.
    fn status_link(&self, status: &str) -> String {
        self.link(&[("status", status), ("only", "")])
    }

    /// A link to one of the predefined filters.
    fn only_link(&self, only: &str) -> String {
        self.link(&[("only", only), ("status", ""), ("q", "")])
    }

    fn link(&self, changes: &[(&str, &str)]) -> String {
        let query = self.filters.query(changes);
        self.chrome.link(&if query.is_empty() { PATH.to_owned() } else { format!("{PATH}?{query}") })
    }
}

/// `GET /dashboard/settings/api-keys`
pub(in crate::dashboard) async fn page(viewer: Viewer, RawQuery(query): RawQuery) -> Response {
    let filters = Filters::of(&query.unwrap_or_default());
    let result = show(&viewer, filters).await;
    viewer.answer(result)
}

async fn show(viewer: &Viewer, filters: Filters) -> Result<Response> {
    let manager = viewer.manager()?;
    if viewer.service().auth.holds_credential(&filters.search) {
        // Keep only the stored prefix of a pasted secret: otherwise the secret would stay in the address bar and in the
        // history.
        let prefix: String = filters.search.chars().take(DISPLAY_PREFIX_LEN).collect();
        return Ok(see_other(&format!("{PATH}?{}", filters.query(&[("q", &prefix)]))));
    }
    let registry = &viewer.service().registry;
    let mut keyspaces: Vec<String> = registry.all().iter().map(|keyspace| keyspace.name.clone()).collect();
    keyspaces.retain(|name| manager.keyspace(name).is_ok());
    let mut request = filters.list();
    if request.keyspace.is_empty() && manager.keyspace("").is_err() {
        // A person of several keyspaces has to name one.
        request.keyspace = keyspaces.first().cloned().unwrap_or_default();
    }
    let chosen = request.keyspace.clone();
    let find = match filters.only.as_str() {
        "unused" => Some(Find::UnusedFor(UNUSED_DAYS * DAY)),
        "expiring" => Some(Find::ExpiringWithin(EXPIRING_DAYS * DAY)),
        _ if !filters.search.is_empty() => Some(Find::Text(filters.search.clone())),
        _ => None,
    };
    let (service, caller, call) = (viewer.service(), viewer.caller(), viewer.call());
    let searched = find.is_some();
    let Found { page: Page { keys, next }, is_whole } = match find {
        Some(find) => service.keys.search(caller, find, request, call).await?,
        None => Found { page: service.keys.list(caller, request, call).await?, is_whole: true },
    };
    let now = viewer.now();
    let full = keys.len() >= PAGE_SIZE as usize;
    let note = match (searched && full && next.is_none(), filters.only.as_str(), &next) {
        _ if !is_whole => "So many keys fit that not every one was looked at. Search for more of the name.",
        (true, ..) => "Only the first 50 are shown. Narrow the search to see others.",
        (_, "unused", Some(_)) if !full => "More keys are left to look at: go on with the next page.",
        _ => "",
    };
    let mut chrome = viewer.chrome(Section::Keys, "API Keys");
    PATH.clone_into(&mut chrome.path);
    let mut filters = filters;
    if filters.keyspace.is_empty() && manager.keyspace("").is_err() {
        filters.keyspace = chosen;
    }
    let mut page = ListPage {
        rows: keys.iter().map(|key| KeyRow::new(key, now, keyspaces.len())).collect(),
        keyspaces: if keyspaces.len() > 1 { keyspaces } else { Vec::new() },
        by_organization: matches!(viewer.caller(), Caller::Operator { .. }),
        next: String::new(),
        note: note.to_owned(),
        can_create: true,
        more_filters: filters.narrows_more(),
        chrome,
        filters,
    };
    page.next = next.map(|next| page.link(&[("cursor", &next)])).unwrap_or_default();
    Ok(html(StatusCode::OK, &page))
}
