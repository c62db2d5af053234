//! `keys create`: the secret alone on standard output, everything else on standard error.

use reqwest::Method;
use serde_json::{Map, Value, json};
use time::{Date, OffsetDateTime, Time, format_description::well_known::Rfc3339, macros::format_description};

use super::{super::list::organization, show};
use crate::cli::client::{
    api::Api,
    args::Create,
    environment::Environment,
    failure::{Exit, Failure, Result},
    output::{self, Format},
    text::{escape, now, parse_time},
};

const DAY: u64 = 86_400;

pub async fn create(environment: &Environment, arguments: &Create) -> Result {
    let screen = &environment.screen;
    if environment.requested_format() == Some(Format::Id) {
        return Err(Failure::usage("-o id would lose the secret; -o json has both"));
    }
    let mut api = Api::connect(environment).await?;
    let mut body = Map::new();
    if let Some(id) = &arguments.rotate {
        body = successor(environment, &mut api, id).await?;
    }
    fill(&mut body, arguments, organization(environment)?)?;
    let body = Value::Object(body);
    let work = api.change(Method::POST, &["api", "api-keys"], &[], &body);
    let made = screen.wait("making the key", work).await?;
    let text = |name: &str| made[name].as_str().unwrap_or_default();
    let written = match environment.requested_format() {
        None | Some(Format::Table) => screen.line(text("key")),
        Some(format) => output::object(screen, format, &made, String::new),
    };
    if let Err(failure) = written {
        // The secret is lost, so a closed standard output is an error here.
        let why = if failure.exit == Exit::Done { "nobody reads it" } else { failure.message.as_str() };
        let name = &environment.product.name;
        return Err(Failure::new(format_args!(
            "the key {} was made, but its secret was not written: {why}",
            text("id")
        ))
        .hint(format_args!("Revoke it with: {name} keys revoke {}{}", text("id"), environment.flag())));
    }
    let mut record = made.clone();
    if let Some(fields) = record.as_object_mut() {
        fields.retain(|name, _| name != "key" && name != "webhookSecret");
    }
    screen.note(show::facts(screen, &record).trim_end());
    if !text("webhookSecret").is_empty() {
        // Without a format it is shown only here, so --quiet does not leave it out.
        screen.say(format!("The secret that signs its webhook: {}", text("webhookSecret")));
    }
    screen.note("The secret is shown this once. Keep it where your pipeline keeps secrets.");
    if let Some(old) = &arguments.rotate {
        let (name, flag) = (&environment.product.name, environment.flag());
        screen.note(format!(
            "Once everything uses the new key, end the old one:\n  {name} keys get {0}{flag}      # was it used lately?\n  \
             {name} keys revoke {0}{flag} --reason rotated",
            escape(old)
        ));
    }
    Ok(())
}

/// The body of a key like another one.
async fn successor(environment: &Environment, api: &mut Api<'_>, id: &str) -> Result<Map<String, Value>> {
    let organization = organization(environment)?;
    let own = [("orgId", organization.as_str())];
    let old = api.get(&["api", "api-keys", id], &own).await?;
    let mut body = Map::new();
    for name in ["name", "scopes", "orgId", "instanceId", "environment", "webhook", "metadata", "keyspaces"] {
        let empty = old[name].is_null() || old[name].as_array().is_some_and(Vec::is_empty);
        if !empty && old[name] != json!({}) {
            body.insert(name.to_owned(), old[name].clone());
        }
    }
    // The same lifetime as the old key had.
    let time = |name: &str| old[name].as_str().and_then(parse_time);
    if let (Some(created), Some(expires)) = (time("createdAt"), time("expiresAt")) {
        let lifetime = u64::try_from(expires - created).unwrap_or_default();
        expiry(&mut body, lifetime);
    }
    // A key's record over REST does not name its keyspace; the event of its creation does.
    let events = api.get(&["api", "events"], &[("keyId", id), ("limit", "1"), ("orgId", &organization)]).await?;
    if let Some(keyspace) = events["events"][0]["data"]["keyspace"].as_str() {
        body.insert("keyspace".to_owned(), keyspace.into());
    }
    Ok(body)
}

/// Overrides fields of the body with the arguments.
fn fill(body: &mut Map<String, Value>, arguments: &Create, organization: String) -> Result {
    let organization = Some(organization).filter(|organization| !organization.is_empty());
    for (name, value) in [
        ("name", &arguments.name),
        ("orgId", &organization),
        ("instanceId", &arguments.instance),
        ("environment", &arguments.environment),
        ("keyspace", &arguments.keyspace),
        ("webhook", &arguments.webhook),
    ] {
        if let Some(value) = value {
            body.insert(name.to_owned(), value.as_str().into());
        }
    }
    if !arguments.scopes.is_empty() {
        body.insert("scopes".to_owned(), arguments.scopes.clone().into());
    }
    if !arguments.metadata.is_empty() {
        let mut pairs = Map::new();
        for pair in &arguments.metadata {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| Failure::usage(format_args!("--metadata {}: must be NAME=VALUE", escape(pair))))?;
            pairs.insert(name.to_owned(), value.into());
        }
        body.insert("metadata".to_owned(), pairs.into());
    }
    match &arguments.expires {
        Some(expires) => expires_at(body, expires),
        None => Ok(()),
    }
}

/// `90d`, `12h`, a date, or a time.
fn expires_at(body: &mut Map<String, Value>, text: &str) -> Result {
    body.remove("expiresInDays");
    if let Ok(lifetime) = humantime::parse_duration(text) {
        expiry(body, lifetime.as_secs());
        return Ok(());
    }
    let at = point(text).ok_or_else(|| {
        Failure::usage(format_args!("--expires {}: must be 90d, 12h, or a date such as 2030-12-31", escape(text)))
    })?;
    body.insert("expiresAt".to_owned(), at.into());
    Ok(())
}

/// Send whole days as a number, which the service adds to its own time, so that a wrong clock of this machine has no
/// effect.
fn expiry(body: &mut Map<String, Value>, seconds: u64) {
    body.remove("expiresAt");
    if seconds > 0 && seconds.is_multiple_of(DAY) {
        body.insert("expiresInDays".to_owned(), (seconds / DAY).into());
    } else {
        let at = i64::try_from(seconds).ok().and_then(|seconds| now().checked_add(seconds));
        let at = at.and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
        // A time beyond the year 9999 cannot be formatted. Send the latest one that can: the service refuses it and
        // names its bound.
        let at = at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| "9999-12-31T00:00:00Z".to_owned());
        body.insert("expiresAt".to_owned(), at.into());
    }
}

/// A date (its beginning, UTC) or a time in RFC 3339.
pub fn point(text: &str) -> Option<String> {
    if let Ok(date) = Date::parse(text, format_description!("[year]-[month]-[day]")) {
        return OffsetDateTime::new_utc(date, Time::MIDNIGHT).format(&Rfc3339).ok();
    }
    OffsetDateTime::parse(text, &Rfc3339).ok().map(|_| text.to_owned())
}
