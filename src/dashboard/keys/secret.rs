//! The page that shows a secret, once.

use askama::Template;
use axum::response::Response;
use http::StatusCode;

use crate::{
    dashboard::{
        chrome::{Chrome, Section},
        response::{download, page},
        text,
        viewer::{Posted, Viewer},
    },
    domain::{
        error::{Error, Result},
        keyspace::{CredentialHeader, Keyspace},
    },
    service::keys::create::Created,
};

#[derive(Template)]
#[template(path = "keys/secret.html")]
struct SecretPage<'a> {
    chrome: Chrome,
    heading: &'a str,
    name: String,
    id: String,
    /// The secret of a key; empty where only a webhook's secret is shown.
    secret: &'a str,
    webhook_secret: &'a str,
    /// The environment variable of the key's product.
    variable: String,
    curl: String,
}

/// The page after a creation.
pub(super) fn created(viewer: &Viewer, created: &Created) -> Response {
    let keyspace = viewer.service().registry.by_name(&created.key.keyspace);
    let variable = variable(&created.key.keyspace);
    let template = SecretPage {
        chrome: viewer.chrome(Section::Keys, "Copy the key"),
        heading: "Copy the key now",
        name: text::name(&created.key),
        id: created.key.id.to_string(),
        secret: created.secret.expose(),
        webhook_secret: created.webhook_secret.as_ref().map_or("", |secret| secret.as_str()),
        curl: keyspace.map(|keyspace| curl(viewer, keyspace, &variable)).unwrap_or_default(),
        variable,
    };
    page(StatusCode::CREATED, &template)
}

/// The page after a rotation of a webhook's signing secret.
pub(super) fn webhook_secret(viewer: &Viewer, id: &str, name: String, secret: &str) -> Response {
    let template = SecretPage {
        chrome: viewer.chrome(Section::Keys, "Copy the signing secret"),
        heading: "Copy the signing secret now",
        name,
        id: id.to_owned(),
        secret: "",
        webhook_secret: secret,
        variable: String::new(),
        curl: String::new(),
    };
    page(StatusCode::OK, &template)
}

#[derive(Template)]
#[template(path = "keys/already.html")]
struct AlreadyPage {
    chrome: Chrome,
}

/// The page for a form that was sent a second time.
pub(super) fn already_used(viewer: &Viewer) -> Response {
    page(StatusCode::CONFLICT, &AlreadyPage { chrome: viewer.chrome(Section::Keys, "Already done") })
}

/// `NORRIX_API_KEY` for the keyspace `norrix`.
fn variable(keyspace: &str) -> String {
    let name: String =
        keyspace.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    let name = if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name };
    if keyspace == "default" { "API_KEY".to_owned() } else { format!("{name}_API_KEY") }
}

fn curl(viewer: &Viewer, keyspace: &Keyspace, variable: &str) -> String {
    let origin = viewer.site.origin(&viewer.shared.0);
    let origin = origin.unwrap_or_else(|| format!("https://{}", viewer.site.host));
    let header = match keyspace.credential {
        CredentialHeader::XApiKey => format!("X-API-Key: ${variable}"),
        CredentialHeader::Bearer | CredentialHeader::Any => format!("Authorization: Bearer ${variable}"),
    };
    format!("curl -H \"{header}\" {origin}/api/v1/keys")
}

/// `POST /dashboard/settings/api-keys/env`: the secret that the page itself has just shown, as a file. The server does
/// not store it: the page sends it in the form, which is the only way to offer a download without script.
pub(in crate::dashboard) async fn env(Posted { viewer, mut form }: Posted) -> Response {
    let (variable, secret) = (form.one("variable"), form.one("secret"));
    let result = form.finish().and_then(|()| env_file(&viewer, &variable, &secret));
    viewer.answer(result)
}

fn env_file(viewer: &Viewer, named: &str, secret: &str) -> Result<Response> {
    // Only a secret of this installation is sent back, so that the form cannot be used to serve other content.
    let is_ours = viewer.service().auth.is_well_formed(secret);
    let known = viewer.service().registry.all().iter().any(|keyspace| variable(&keyspace.name) == named);
    if !is_ours || !known {
        return Err(Error::invalid("secret", "is no secret of this installation"));
    }
    Ok(download("text/plain; charset=utf-8", ".env", format!("{named}={secret}\n")))
}
