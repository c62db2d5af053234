//! A person's own sessions: the list, and ending any of them.

use askama::Template;
use axum::response::Response;
use http::StatusCode;

use super::{
    chrome::{Chrome, Section},
    form::Form,
    response::{page as html, see_other},
    text::Moment,
    viewer::{Posted, Viewer},
};
use crate::domain::{
    dashboard::SessionId,
    error::{Error, Result},
};

const PATH: &str = "/dashboard/settings/sessions";

struct SessionLine {
    id: String,
    current: bool,
    began: Moment,
    seen: Moment,
    ends: Moment,
}

#[derive(Template)]
#[template(path = "sessions.html")]
struct SessionsPage {
    chrome: Chrome,
    rows: Vec<SessionLine>,
}

/// `GET /dashboard/settings/sessions`
pub(super) async fn page(viewer: Viewer) -> Response {
    let result = show(&viewer).await;
    viewer.answer(result)
}

async fn show(viewer: &Viewer) -> Result<Response> {
    let (now, own) = (viewer.now(), &viewer.open.session);
    let sessions = viewer.service().dashboard.own(own, viewer.call()).await?;
    let rows = sessions.iter().map(|session| SessionLine {
        id: session.id.text(),
        current: session.id == own.id,
        began: Moment::new(session.created_at, now),
        seen: Moment::new(session.last_seen_at, now),
        ends: Moment::new(session.idle_at, now),
    });
    let template = SessionsPage { rows: rows.collect(), chrome: viewer.chrome(Section::Sessions, "Your sessions") };
    Ok(html(StatusCode::OK, &template))
}

/// `POST /dashboard/settings/sessions`
pub(super) async fn end(Posted { viewer, form }: Posted) -> Response {
    let result = end_one(&viewer, form).await;
    viewer.answer(result)
}

async fn end_one(viewer: &Viewer, mut form: Form) -> Result<Response> {
    let named = form.one("session");
    form.finish()?;
    let id = SessionId::parse(&named).ok_or_else(|| Error::invalid("session", "is no session"))?;
    // A session that has ended meanwhile is not an error.
    viewer.service().dashboard.end_other(&viewer.open, id, viewer.call()).await?;
    Ok(see_other(PATH))
}
