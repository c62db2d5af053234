//! `login`: finds the issuer, signs in, and stores the tokens once the service has accepted them.

use reqwest::Url;
use serde_json::Value;

use crate::cli::client::{
    api::{self, Api},
    args::Login,
    environment::{Environment, Settings, parse_url},
    failure::{Failure, Result},
    sign_in::{
        browser::{self, Client},
        device,
        oauth::{self, Accepted},
    },
    text::escape,
};

pub async fn login(environment: &Environment, arguments: &Login) -> Result {
    let base = match &arguments.address {
        Some(address) => parse_url(address)?,
        None => environment.configured_url()?.ok_or_else(|| {
            Failure::usage("where?").hint(format_args!("{} login https://keys.example.com", environment.product.name))
        })?,
    };
    let screen = &environment.screen;
    let http = api::http(environment)?;
    let service = screen.wait("connecting", oauth::service(&http, &base, &environment.product.title())).await?;
    let (Some(identifier), Some(client_id)) = (&service.issuer, &service.client_id) else {
        return Err(Failure::new(format_args!("{base} offers no sign-in from a command line"))
            .hint(format_args!("Use a key: set {}.", environment.product.variable("API_KEY"))));
    };
    if base.scheme() == "http" && !is_local(&base) {
        screen.warn(format!("{base} is not encrypted: anybody on the way can read your session"));
    }
    let issuer = screen.wait("connecting to the issuer", oauth::issuer(&http, identifier)).await?;
    let scopes = service.scopes.unwrap_or_else(|| vec!["openid".to_owned()]).join(" ");
    let ports = service.redirect_ports.unwrap_or_default();
    let client = Client { service: &base, issuer: &issuer, client_id, scopes: &scopes, ports: &ports };
    let open = !arguments.no_browser && browser::is_available();
    let by_device =
        arguments.device || (!arguments.no_browser && !open && issuer.device_authorization_endpoint.is_some());
    if by_device {
        let accepted = device::sign_in(environment, &http, &client).await?;
        keep(environment, &base, accepted).await
    } else {
        let confirm = async |accepted| keep(environment, &base, accepted).await;
        browser::sign_in(environment, &http, &client, open, confirm).await
    }
}

/// Stores a session that the service accepts.
async fn keep(environment: &Environment, base: &Url, accepted: Accepted) -> Result {
    let Accepted { tokens, skew } = accepted;
    let screen = &environment.screen;
    if let Some(seconds) = skew {
        let (by, which) = (seconds.abs() / 60, if seconds > 0 { "behind" } else { "ahead of" });
        screen.warn(format!("this machine's clock is {by} minutes {which} the issuer's"));
    }
    let mut api = Api::with_token(environment, api::http(environment)?, base.clone(), &tokens.id_token);
    let answer = screen.wait("signing in", api.get(&["api", "v1", "whoami"], &[])).await?;
    let organizations: Vec<&str> =
        answer["organizations"].as_array().into_iter().flatten().filter_map(|own| own["id"].as_str()).collect();
    let lock = environment.lock().await?;
    // Drop the chosen organization if another person chose it, or if it is one of another service.
    let before = environment.settings()?;
    let same = before.url.as_deref() == Some(base.as_str());
    let kept = before.organization.filter(|chosen| same && organizations.contains(&chosen.as_str()));
    environment.write_tokens(&tokens)?;
    environment.write_settings(&Settings { url: Some(base.to_string()), organization: kept.clone() })?;
    drop(lock);
    let who = answer["name"].as_str().or(answer["subject"].as_str()).unwrap_or_default();
    screen.note(format!("Signed in as {} at {base} (environment {}).", escape(who), environment.name));
    describe_choice(environment, &organizations, kept.as_deref());
    if environment.api_key().is_some() {
        screen.warn(format!("{} is set and goes before this session", environment.product.variable("API_KEY")));
    }
    if answer["organizations"] == Value::Array(Vec::new()) {
        screen.warn("you are in no organization");
    }
    Ok(())
}

fn describe_choice(environment: &Environment, organizations: &[&str], kept: Option<&str>) {
    let screen = &environment.screen;
    match (organizations, kept) {
        ([only], _) => screen.note(format!("Organization: {}.", escape(only))),
        (_, Some(kept)) => screen.note(format!("Organization: {}.", escape(kept))),
        ([_, ..], None) => screen.note(format!(
            "You are in {} organizations. Choose one with: {} orgs select{}",
            organizations.len(),
            environment.product.name,
            environment.flag()
        )),
        ([], None) => {}
    }
}

fn is_local(url: &Url) -> bool {
    url.host_str().is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]"))
}
