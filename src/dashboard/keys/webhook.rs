//! A key's webhook: set, change, rotate its secret, remove it, and send an event again.

use axum::{extract::Path, response::Response};

use super::{PATH, one, secret};
use crate::{
    dashboard::{
        chrome::Section,
        form::Form,
        response::see_other,
        text,
        viewer::{Posted, Viewer},
    },
    domain::error::{Error, ErrorKind, Result},
    service::keys::webhook::WebhookPatch,
};

/// `POST /dashboard/settings/api-keys/{id}/webhook`
pub(in crate::dashboard) async fn submit(Path(id): Path<String>, Posted { viewer, form }: Posted) -> Response {
    let result = change(&viewer, &id, form).await;
    viewer.answer(result)
}

async fn change(viewer: &Viewer, id: &str, mut form: Form) -> Result<Response> {
    let (action, url, once) = (form.one("action"), form.one("url"), form.one("once"));
    form.finish()?;
    let key = one::find(viewer, id).await?;
    let patch = match action.as_str() {
        "set" if url.trim().is_empty() => {
            return one::show(viewer, id, "Type the address that events are sent to.".to_owned(), url).await;
        }
        "set" => WebhookPatch { url: url.trim().to_owned(), rotate_secret: false },
        "rotate" => WebhookPatch { url: key.webhook_url.clone(), rotate_secret: true },
        "remove" => WebhookPatch::default(),
        _ => return Err(Error::invalid("action", "must be set, rotate or remove")),
    };
    // The response may show a secret. A browser that reloads it sends the form again, so each form is valid once.
    if !viewer.service().dashboard.spend_form(&viewer.open.session, &once, viewer.call()).await? {
        return Ok(secret::already_used(viewer));
    }
    match viewer.service().keys.update_webhook(viewer.caller(), id, patch, viewer.call()).await {
        Ok(changed) => Ok(match &changed.webhook_secret {
            Some(shown) => secret::webhook_secret(viewer, id, text::name(&changed.key), shown),
            None => see_other(&viewer.chrome(Section::Keys, "").link(&format!("{PATH}/{}", key.id))),
        }),
        Err(error) if error.kind == ErrorKind::InvalidArgument => {
            let what = error.fields.first().map(|bad| bad.description.clone()).unwrap_or_default();
            one::show(viewer, id, format!("The address {what}."), url).await
        }
        Err(error) => Err(error),
    }
}

/// `POST /dashboard/settings/api-keys/{id}/redeliver`
pub(in crate::dashboard) async fn redeliver(Path(id): Path<String>, Posted { viewer, form }: Posted) -> Response {
    let result = send_again(&viewer, &id, form).await;
    viewer.answer(result)
}

async fn send_again(viewer: &Viewer, id: &str, mut form: Form) -> Result<Response> {
    let event = form.one("event");
    form.finish()?;
    let key = one::find(viewer, id).await?;
    viewer.service().audit.redeliver(viewer.caller(), &event, viewer.call()).await?;
    Ok(see_other(&viewer.chrome(Section::Keys, "").link(&format!("{PATH}/{}", key.id))))
}
