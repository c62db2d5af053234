//! `logout` and `whoami`.

use serde_json::Value;

use crate::cli::client::{
    api::{self, Api},
    environment::{Environment, Settings},
    failure::Result,
    output,
    sign_in::oauth,
    table,
    text::{now, parse_time, relative},
};

/// Revokes the refresh token at the issuer if possible, and deletes the session in any case.
pub async fn logout(environment: &Environment) -> Result {
    let screen = &environment.screen;
    let lock = environment.lock().await?;
    // A damaged file is deleted, too.
    let tokens = environment.tokens();
    let damaged = tokens.is_err();
    let tokens = tokens.unwrap_or_default();
    environment.delete_tokens()?;
    let settings = environment.settings()?;
    if settings.organization.is_some() {
        environment.write_settings(&Settings { organization: None, ..settings })?;
    }
    drop(lock);
    let mut revoked = false;
    if let Some(tokens) = &tokens
        && let Some(refresh_token) = &tokens.refresh_token
    {
        let http = api::http(environment)?;
        let work = async {
            match oauth::issuer(&http, &tokens.issuer).await {
                Ok(issuer) => oauth::revoke(&http, &issuer, &tokens.client_id, refresh_token).await,
                Err(_) => false,
            }
        };
        revoked = screen.wait("signing out", work).await;
    }
    if tokens.is_none() && !damaged {
        screen.note(format!("You were not signed in (environment {}).", environment.name));
    } else {
        screen.note(format!("Signed out (environment {}).", environment.name));
    }
    if !revoked && tokens.is_some_and(|tokens| tokens.refresh_token.is_some()) {
        screen.warn("the issuer did not confirm the end of the session; it ends by itself when it expires");
    }
    if environment.api_key().is_some() {
        screen.warn(format!("{} is still set", environment.product.variable("API_KEY")));
    }
    Ok(())
}

pub async fn whoami(environment: &Environment) -> Result {
    let screen = &environment.screen;
    let mut api = Api::connect(environment).await?;
    let answer = screen.wait("asking", api.get(&["api", "v1", "whoami"], &[])).await?;
    let (url, current) = (environment.url()?, environment.organization()?);
    output::object(screen, environment.format(), &answer, || {
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        let list = |name: &str| {
            let items = answer[name].as_array().into_iter().flatten();
            items.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        };
        let organizations = answer["organizations"].as_array().into_iter().flatten().map(|own| {
            let id = own["id"].as_str().unwrap_or_default();
            own["role"].as_str().map_or_else(|| id.to_owned(), |role| format!("{id} ({role})"))
        });
        let organizations = organizations.collect::<Vec<_>>().join(", ");
        let expires = answer["expiresAt"].as_str().and_then(parse_time).map(|at| relative(at, now()));
        let by = if environment.api_key().is_some() {
            format!("the key in {}", environment.product.variable("API_KEY"))
        } else {
            "a session".to_owned()
        };
        table::facts(
            screen,
            &[
                ("Caller", text("caller")),
                ("Name", text("name")),
                ("Subject", text("subject")),
                ("Key", text("keyId")),
                ("Scopes", list("scopes")),
                ("Keyspaces", list("keyspaces")),
                ("Organizations", organizations),
                ("Current", current.unwrap_or_default()),
                ("Expires", expires.unwrap_or_default()),
                ("By", by),
                ("Environment", environment.name.clone()),
                ("Service", url.to_string()),
            ],
        )
    })
}
