//! `keys webhook`.

use reqwest::Method;
use serde_json::json;

use super::super::list::organization;
use crate::cli::client::{
    api::Api,
    environment::Environment,
    failure::Result,
    output::{self, Format},
    text::escape,
};

pub async fn webhook(environment: &Environment, id: &str, webhook: &str) -> Result {
    let screen = &environment.screen;
    let organization = organization(environment)?;
    let mut api = Api::connect(environment).await?;
    let (query, body) = ([("orgId", organization.as_str())], json!({"webhook": webhook}));
    let path = ["api", "api-keys", id];
    let work = api.change(Method::PATCH, &path, &query, &body);
    let key = screen.wait("changing the webhook", work).await?;
    let secret = key["webhookSecret"].as_str();
    match (environment.requested_format(), secret) {
        (Some(format), _) if format != Format::Table => output::object(screen, format, &key, String::new)?,
        (_, Some(secret)) => screen.line(secret)?,
        (_, None) => {}
    }
    screen.note(match key["webhook"].as_str() {
        Some(webhook) => format!("Events of {} are sent to {}.", escape(id), escape(webhook)),
        None => format!("Events of {} are sent to no webhook.", escape(id)),
    });
    if secret.is_some() {
        screen.note("The secret that signs its webhook is shown this once.");
    }
    Ok(())
}
