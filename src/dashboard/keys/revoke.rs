//! Revoking a key, and the progress of the revocation.

use std::time::Duration;

use askama::Template;
use axum::{extract::Path, response::Response};
use http::StatusCode;
use tokio::time::Instant;

use super::{PATH, one};
use crate::{
    dashboard::{
        chrome::{Chrome, Section},
        form::Form,
        response::{page, see_other},
        text::{self, Moment},
        viewer::{Posted, Viewer},
    },
    domain::{
        error::{Error, ErrorKind, Result},
        key::{KeyRecord, KeyStatus},
        text::normalized,
    },
    service::{
        CallContext,
        keys::revoke::{Revocation, Revoked},
    },
};

/// How long a request waits until the revocation is confirmed on every replica. After that, the browser gets the page
/// that shows the progress.
const CERTAINTY_TIMEOUT: Duration = Duration::from_secs(4);

#[derive(Template)]
#[template(path = "keys/revoke.html")]
struct RevokePage {
    chrome: Chrome,
    id: String,
    name: String,
    prefix: String,
    /// The text that has to be typed.
    confirmation: String,
    last_used: Option<Moment>,
    reason: String,
    problem: String,
    reason_problem: String,
}

#[derive(Template)]
#[template(path = "keys/revocation.html")]
struct RevocationPage {
    chrome: Chrome,
    id: String,
    name: String,
    certain: bool,
    /// "Dead on 3 of 3 replicas after 4 ms."
    sentence: String,
    revoked: Option<Moment>,
    reason: String,
}

/// `GET /dashboard/settings/api-keys/{id}/revoke`
pub(in crate::dashboard) async fn form(viewer: Viewer, Path(id): Path<String>) -> Response {
    let result = confirmation_page(&viewer, &id).await;
    viewer.answer(result)
}

async fn confirmation_page(viewer: &Viewer, id: &str) -> Result<Response> {
    let key = one::find(viewer, id).await?;
    if key.status(viewer.now()) == KeyStatus::Revoked {
        return Ok(see_other(&viewer.chrome(Section::Keys, "").link(&format!("{PATH}/{}/revocation", key.id))));
    }
    viewer.manager()?.may_change(&key)?;
    Ok(show(viewer, &key, String::new(), String::new(), String::new(), StatusCode::OK))
}

fn show(
    viewer: &Viewer,
    key: &KeyRecord,
    reason: String,
    problem: String,
    reason_problem: String,
    status: StatusCode,
) -> Response {
    let template = RevokePage {
        chrome: viewer.chrome(Section::Keys, "Revoke"),
        id: key.id.to_string(),
        name: text::name(key),
        prefix: key.prefix.clone(),
        confirmation: text::confirmation(key),
        last_used: Moment::maybe(key.last_used_at, viewer.now()),
        reason,
        problem,
        reason_problem,
    };
    page(status, &template)
}

/// `POST /dashboard/settings/api-keys/{id}/revoke`
pub(in crate::dashboard) async fn submit(Path(id): Path<String>, Posted { viewer, form }: Posted) -> Response {
    let result = revoke(&viewer, &id, form).await;
    viewer.answer(result)
}

async fn revoke(viewer: &Viewer, id: &str, mut form: Form) -> Result<Response> {
    let (confirmation, reason) = (form.one("confirmation"), form.one("reason"));
    form.finish()?;
    let key = one::find(viewer, id).await?;
    viewer.manager()?.may_change(&key)?;
    if normalized(confirmation.trim()) != normalized(&text::confirmation(&key)) {
        let problem = "This is not the name of the key. Type it as it is shown.".to_owned();
        return Ok(show(viewer, &key, reason, problem, String::new(), StatusCode::BAD_REQUEST));
    }
    let call = viewer.call();
    let call = CallContext { deadline: call.deadline.min(Instant::now() + CERTAINTY_TIMEOUT), ..call };
    match viewer.service().keys.revoke(viewer.caller(), id, reason.trim().to_owned(), call).await {
        Ok(revoked) => Ok(revocation_page(viewer, &revoked.key, &Progress::Done(&revoked))),
        Err(error) if is_pending(&error) => {
            let chrome = viewer.chrome(Section::Keys, "");
            Ok(see_other(&chrome.link(&format!("{PATH}/{}/revocation", key.id))))
        }
        Err(error) if error.kind == ErrorKind::InvalidArgument => {
            let problem = "At most 200 characters, without control characters.".to_owned();
            Ok(show(viewer, &key, reason, String::new(), problem, StatusCode::BAD_REQUEST))
        }
        Err(error) => Err(error),
    }
}

/// Whether a revocation is committed, but not confirmed by every replica yet.
pub(super) fn is_pending(error: &Error) -> bool {
    error.reason == "REVOCATION_PENDING"
}

/// "dead on 3 of 3 replicas after 4 ms"
pub(super) fn certainty(revoked: &Revoked) -> String {
    let replicas = revoked.replicas;
    let noun = if replicas == 1 { "replica" } else { "replicas" };
    format!("dead on {replicas} of {replicas} {noun} after {}", text::took(revoked.took))
}

enum Progress<'a> {
    Done(&'a Revoked),
    Known(&'a Revocation),
}

/// `GET /dashboard/settings/api-keys/{id}/revocation`
pub(in crate::dashboard) async fn progress(viewer: Viewer, Path(id): Path<String>) -> Response {
    let found = viewer.service().keys.revocation(viewer.caller(), &id, viewer.call()).await;
    let result = found.map_err(one::no_such_key).map(|(key, revocation)| match &revocation {
        Revocation::None => see_other(&viewer.chrome(Section::Keys, "").link(&format!("{PATH}/{}", key.id))),
        known => revocation_page(&viewer, &key, &Progress::Known(known)),
    });
    viewer.answer(result)
}

fn revocation_page(viewer: &Viewer, key: &KeyRecord, progress: &Progress<'_>) -> Response {
    let noun = |replicas: usize| if replicas == 1 { "replica" } else { "replicas" };
    let (certain, sentence) = match progress {
        Progress::Done(revoked) => (true, capitalized(&certainty(revoked))),
        Progress::Known(Revocation::Certain { replicas }) => {
            (true, format!("Dead on {replicas} of {replicas} {}", noun(*replicas)))
        }
        Progress::Known(Revocation::Pending { waiting, replicas }) => {
            (false, format!("Revoked; still waiting for {waiting} of {replicas} {}", noun(*replicas)))
        }
        Progress::Known(Revocation::None) => (false, String::new()),
    };
    let mut chrome = viewer.chrome(Section::Keys, "Revoked");
    chrome.refresh = !certain;
    let template = RevocationPage {
        chrome,
        id: key.id.to_string(),
        name: text::name(key),
        certain,
        sentence,
        revoked: Moment::maybe(key.revoked_at, viewer.now()),
        reason: key.revoke_reason.clone(),
    };
    page(StatusCode::OK, &template)
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
