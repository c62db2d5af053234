//! Revoking several keys at once: the confirmation, and the result for each.

use askama::Template;
use axum::response::Response;
use futures::future::join_all;
use http::StatusCode;

use super::{one, revoke as single, row::KeyRow};
use crate::{
    dashboard::{
        chrome::{Chrome, Section},
        form::Form,
        response::page,
        viewer::{Posted, Viewer},
    },
    domain::error::{Error, Result},
};

/// The most keys at once: one page of the list.
const MAX_SELECTED: usize = 50;
/// Maximum number of concurrent revocations: fewer than one caller may have in flight, so that pages still load
/// meanwhile.
const MAX_CONCURRENT_REVOCATIONS: usize = 8;

#[derive(Template)]
#[template(path = "keys/selected.html")]
struct SelectedPage {
    chrome: Chrome,
    /// The keys that would be revoked.
    rows: Vec<KeyRow>,
    /// The keys that cannot be revoked, and why.
    refused: Vec<(String, String)>,
}

struct Outcome {
    id: String,
    name: String,
    good: bool,
    sentence: String,
}

#[derive(Template)]
#[template(path = "keys/selected_result.html")]
struct ResultPage {
    chrome: Chrome,
    outcomes: Vec<Outcome>,
}

fn ids(form: &mut Form) -> Result<Vec<String>> {
    let mut ids = form.many("id");
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Err(Error::invalid("keys", "select at least one key"));
    }
    if ids.len() > MAX_SELECTED {
        return Err(Error::invalid("keys", "at most 50 at once"));
    }
    Ok(ids)
}

/// `POST /dashboard/settings/api-keys/selected`: changes nothing.
pub(in crate::dashboard) async fn preview(Posted { viewer, form }: Posted) -> Response {
    let result = show(&viewer, form).await;
    viewer.answer(result)
}

async fn show(viewer: &Viewer, mut form: Form) -> Result<Response> {
    let ids = ids(&mut form)?;
    form.finish()?;
    let (mut rows, mut refused) = (Vec::new(), Vec::new());
    for id in ids {
        match one::find(viewer, &id).await {
            Ok(key) if key.revoked_at.is_some() => refused.push((key.name.clone(), "is revoked already".to_owned())),
            Ok(key) => match viewer.manager()?.may_change(&key) {
                Ok(()) => rows.push(KeyRow::new(&key, viewer.now(), 1)),
                Err(error) => refused.push((key.name.clone(), error.message.into_owned())),
            },
            Err(error) => refused.push((id.chars().take(40).collect(), error.message.into_owned())),
        }
    }
    let chrome = viewer.chrome(Section::Keys, "Revoke several keys");
    Ok(page(StatusCode::OK, &SelectedPage { chrome, rows, refused }))
}

/// `POST /dashboard/settings/api-keys/selected/revoke`
pub(in crate::dashboard) async fn revoke(Posted { viewer, form }: Posted) -> Response {
    let result = revoke_all(&viewer, form).await;
    viewer.answer(result)
}

async fn revoke_all(viewer: &Viewer, mut form: Form) -> Result<Response> {
    let (ids, reason, sure) = (ids(&mut form)?, form.one("reason"), form.one("sure"));
    form.finish()?;
    if sure != "yes" {
        return Err(Error::invalid("sure", "confirm that these keys shall end"));
    }
    let mut outcomes = Vec::with_capacity(ids.len());
    for some in ids.chunks(MAX_CONCURRENT_REVOCATIONS) {
        outcomes.extend(join_all(some.iter().map(|id| one_outcome(viewer, id.clone(), reason.trim()))).await);
    }
    let chrome = viewer.chrome(Section::Keys, "Revoked");
    Ok(page(StatusCode::OK, &ResultPage { chrome, outcomes }))
}

async fn one_outcome(viewer: &Viewer, id: String, reason: &str) -> Outcome {
    let revoked = viewer.service().keys.revoke(viewer.caller(), &id, reason.to_owned(), viewer.call()).await;
    match revoked.map_err(one::no_such_key) {
        Ok(revoked) => Outcome {
            name: crate::dashboard::text::name(&revoked.key),
            sentence: single::certainty(&revoked),
            good: true,
            id,
        },
        Err(error) if single::is_pending(&error) => Outcome {
            name: id.clone(),
            sentence: "revoked; not certain on every replica yet".to_owned(),
            good: true,
            id,
        },
        Err(error) => Outcome {
            name: id.chars().take(40).collect(),
            sentence: error.message.into_owned(),
            good: false,
            id: String::new(),
        },
    }
}
