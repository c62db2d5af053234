//! `keys revoke`: returns once every replica has applied the revocation.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::super::list::organization;
use crate::cli::client::{
    api::Api,
    args::Revoke,
    environment::Environment,
    failure::{Exit, Failure, Result},
    http::Repeat,
    output::{Format, ListWriter},
    terminal,
    text::escape,
};

/// Delay before a revocation is repeated.
const PENDING_INTERVAL: Duration = Duration::from_millis(500);

pub async fn revoke(environment: &Environment, arguments: &Revoke) -> Result {
    let screen = &environment.screen;
    let organization = organization(environment)?;
    let mut api = Api::connect(environment).await?;
    if !environment.yes {
        show_what_ends(environment, &mut api, &arguments.ids, &organization).await?;
        let what = if arguments.ids.len() == 1 {
            "this key".to_owned()
        } else {
            format!("these {} keys", arguments.ids.len())
        };
        terminal::confirm(screen, &format!("Revoke {what} for good?")).await?;
    }
    let mut failed = None;
    let mut listing = ListWriter::new(screen, environment.requested_format().unwrap_or(Format::Jsonl), &[]);
    for id in &arguments.ids {
        let start = Instant::now();
        match screen.wait("revoking", until_certain(environment, &mut api, id, &organization, arguments)).await {
            Ok(key) => {
                if environment.requested_format().is_some_and(|format| format != Format::Table) {
                    listing.page(std::slice::from_ref(&key))?;
                }
                let name = key["name"].as_str().map(|name| format!(" ({})", escape(name))).unwrap_or_default();
                let took = start.elapsed().as_millis();
                screen.note(format!("Revoked {}{name}: certain on every replica after {took} ms.", escape(id)));
            }
            Err(failure) => {
                screen.failed(&format!("{}: {}", escape(id), failure.message));
                failed = Some(failure.exit);
            }
        }
    }
    if environment.requested_format().is_some_and(|format| format != Format::Table) {
        listing.finish()?;
    }
    failed.map_or(Ok(()), |exit: Exit| Err(Failure::silent(exit)))
}

/// Shows the keys by name, before the question. Each has a line of its own: a prompt that is longer than a line of the
/// terminal could not be erased.
async fn show_what_ends(environment: &Environment, api: &mut Api<'_>, ids: &[String], organization: &str) -> Result {
    let screen = &environment.screen;
    if !screen.can_ask {
        return Ok(());
    }
    for id in ids {
        let key = screen.wait("asking", api.get(&["api", "api-keys", id], &[("orgId", organization)])).await?;
        let name = key["name"].as_str().map_or_else(|| "a key without a name".to_owned(), escape);
        let status = key["status"].as_str().unwrap_or_default();
        screen.say(format!("{}  {}  {}", screen.bold_note(&name), escape(id), escape(status)));
    }
    Ok(())
}

/// Repeats a revocation until it is confirmed on every replica. Revoking a revoked key changes nothing and waits for
/// the same confirmation.
async fn until_certain(
    environment: &Environment,
    api: &mut Api<'_>,
    id: &str,
    organization: &str,
    arguments: &Revoke,
) -> Result<Value> {
    let body = arguments.reason.as_ref().map(|reason| json!({"reason": reason}));
    let (path, query) = (["api", "api-keys", id], [("orgId", organization)]);
    loop {
        // A pending revocation is answered with 503. This loop repeats it, not the general retries, which cannot tell
        // it from an outage.
        let answer = api.call(Method::DELETE, &path, &query, body.as_ref(), Repeat::OnlyIfRefused).await?;
        let refusal = match answer {
            Ok(key) => return Ok(key),
            Err(refusal) => refusal,
        };
        let pending = refusal.code == "revocation_pending";
        if !pending && refusal.code != "unavailable" {
            return Err(api.explain(refusal));
        }
        if api.http.remaining() <= PENDING_INTERVAL {
            let limit = environment.timeout().as_secs();
            return Err(Failure::new(if pending {
                format!("revoked, but NOT YET CERTAIN on every replica after {limit} s: run the same command again")
            } else {
                format!("not certain to be revoked after {limit} s ({}): run the same command again", refusal.message)
            }));
        }
        sleep(PENDING_INTERVAL).await;
    }
}
