//! The overview: keys by status and by day, and for operators the installation.

use askama::Template;
use axum::{extract::RawQuery, response::Response};
use http::StatusCode;

use super::{
    charts::{DayChart, Share, shares},
    chrome::{Chrome, Section},
    response::page as html,
    text::{self, Moment},
    viewer::Viewer,
};
use crate::{
    domain::error::Result,
    service::overview::{Installation, MAX_COUNTED},
};

/// A replica in a table.
struct ReplicaLine {
    id: String,
    lease: String,
    revision: i64,
    behind: i64,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    chrome: Chrome,
    statuses: Vec<Share>,
    /// Whether there are more keys than are counted.
    more: bool,
    counted: String,
    created: DayChart,
    revoked: DayChart,
    is_operator: bool,
    verdicts: Vec<Share>,
    replicas: Vec<ReplicaLine>,
    waiting: String,
    overdue: Option<Moment>,
}

impl OverviewPage {
    fn status_link(&self, status: &str) -> String {
        self.chrome.link(&format!("/dashboard/settings/api-keys?status={status}"))
    }
}

/// `GET /dashboard/overview`
pub(super) async fn page(viewer: Viewer, RawQuery(_): RawQuery) -> Response {
    let result = show(&viewer).await;
    viewer.answer(result)
}

async fn show(viewer: &Viewer) -> Result<Response> {
    let now = viewer.now();
    let (caller, organization) = (viewer.caller(), &viewer.organization);
    let numbers = viewer.service().overview.read(caller, organization, viewer.call()).await?;
    let [active, revoked, expired] = numbers.keys.by_status;
    let statuses = [("active", active), ("revoked", revoked), ("expired", expired)];
    let (mut verdicts, mut replicas, mut waiting, mut overdue) = (Vec::new(), Vec::new(), String::new(), None);
    if let Some(Installation { verdicts: totals, replicas: rows, outbox }) = &numbers.installation {
        verdicts = totals.iter().map(|(code, number)| (code.name().to_owned(), *number)).collect();
        let newest = rows.iter().map(|row| row.seen_revision).max().unwrap_or_default();
        replicas = rows
            .iter()
            .map(|row| ReplicaLine {
                id: row.id.to_string(),
                lease: format!("{} ms", row.lease_ms),
                revision: row.seen_revision,
                behind: newest - row.seen_revision,
            })
            .collect();
        waiting = if outbox.pending == 1 { "1 delivery".to_owned() } else { format!("{} deliveries", outbox.pending) };
        // Not overdue until a minute after it became due: a worker may be delivering it.
        overdue = Moment::maybe(outbox.first_due.filter(|due| *due < now - 60 * 1_000_000), now);
    }
    let template = OverviewPage {
        chrome: viewer.chrome(Section::Overview, "Overview"),
        statuses: shares(statuses.map(|(name, number)| (name.to_owned(), number)).to_vec()),
        more: active + revoked + expired >= u64::from(MAX_COUNTED),
        counted: text::grouped(u64::from(MAX_COUNTED)),
        created: DayChart::new("created", &numbers.keys.created, numbers.today),
        revoked: DayChart::new("revoked", &numbers.keys.revoked, numbers.today),
        is_operator: numbers.installation.is_some(),
        verdicts: shares(verdicts),
        replicas,
        waiting,
        overdue,
    };
    Ok(html(StatusCode::OK, &template))
}
