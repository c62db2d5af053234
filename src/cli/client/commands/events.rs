//! `events`.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    keys::{create::point, show::time},
    list::{organization, pages, text},
};
use crate::cli::client::{
    api::Api,
    args::ListEvents,
    environment::Environment,
    failure::{Failure, Result},
    output::{self, ListWriter},
    table::{self, Column},
    text::escape,
};

const EVENTS: [Column; 7] = [
    Column { title: "TIME", cell: |event| time(event, "timestamp", ""), min: 10, id: false },
    Column { title: "TYPE", cell: |event| text(event, "type"), min: 12, id: false },
    Column { title: "KEY", cell: |event| text(event, "keyId"), min: 30, id: true },
    Column { title: "NAME", cell: |event| text(&event["data"], "name"), min: 8, id: false },
    Column { title: "BY", cell: |event| text(event, "actor"), min: 8, id: false },
    Column { title: "DETAILS", cell: details, min: 12, id: false },
    Column { title: "ID", cell: |event| text(event, "id"), min: 30, id: true },
];

const DELIVERIES: [Column; 6] = [
    Column { title: "STATE", cell: |delivery| text(delivery, "state"), min: 9, id: false },
    Column { title: "HOST", cell: |delivery| text(delivery, "host"), min: 8, id: false },
    Column { title: "ATTEMPTS", cell: |delivery| number(delivery, "attempts"), min: 8, id: false },
    Column { title: "LAST ATTEMPT", cell: |delivery| time(delivery, "lastAttemptAt", "never"), min: 10, id: false },
    Column { title: "STATUS", cell: |delivery| number(delivery, "lastStatus"), min: 6, id: false },
    Column { title: "ERROR", cell: |delivery| text(delivery, "lastError"), min: 8, id: false },
];

pub async fn list(environment: &Environment, arguments: &ListEvents) -> Result {
    let organization = organization(environment)?;
    let given = |value: &Option<String>| value.clone().unwrap_or_default();
    let moment = |flag: &str, value: &Option<String>| match value {
        None => Ok(String::new()),
        Some(text) => point(text)
            .ok_or_else(|| Failure::usage(format_args!("{flag} {}: must be a date such as 2026-01-31", escape(text)))),
    };
    let (kind, key, actor) = (given(&arguments.kind), given(&arguments.key), given(&arguments.actor));
    let (since, until) = (moment("--since", &arguments.since)?, moment("--until", &arguments.until)?);
    let keyspace = given(&arguments.keyspace);
    let query = [
        ("type", kind.as_str()),
        ("keyId", &key),
        ("actor", &actor),
        ("since", &since),
        ("until", &until),
        ("keyspace", &keyspace),
        ("orgId", &organization),
    ];
    pages(environment, &["api", "events"], "events", &query, &arguments.extent, &EVENTS).await
}

pub async fn deliveries(environment: &Environment, id: &str) -> Result {
    let organization = organization(environment)?;
    let mut api = Api::connect(environment).await?;
    let query = [("orgId", organization.as_str())];
    let answer = environment.screen.wait("asking", api.get(&["api", "events", id, "deliveries"], &query)).await?;
    let mut listing = ListWriter::new(&environment.screen, environment.format(), &DELIVERIES);
    listing.page(answer["deliveries"].as_array().map(Vec::as_slice).unwrap_or_default())?;
    if listing.finish()? == 0 {
        environment.screen.note("The key had no webhook.");
    }
    Ok(())
}

pub async fn redeliver(environment: &Environment, id: &str) -> Result {
    let screen = &environment.screen;
    let organization = organization(environment)?;
    let mut api = Api::connect(environment).await?;
    let query = [("orgId", organization.as_str())];
    let (path, body) = (["api", "events", id, "redeliver"], json!({}));
    let work = api.change(Method::POST, &path, &query, &body);
    let due = screen.wait("asking", work).await?;
    output::object(screen, environment.format(), &due, || {
        table::facts(screen, &[("State", text(&due, "state")), ("Host", text(&due, "host"))])
    })
}

/// The details of an event, in addition to its key. Events that are about no key have only details.
fn details(event: &Value) -> String {
    let details = event["details"].as_object().into_iter().flatten();
    let texts = details.map(|(name, value)| format!("{name}: {}", value.as_str().unwrap_or_default()));
    texts.collect::<Vec<_>>().join(", ")
}

fn number(item: &Value, name: &str) -> String {
    item[name].as_i64().map(|number| number.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::{screen::Screen, table::Table};

    #[test]
    fn details_are_shown_with_deceptive_characters_escaped() {
        let event = json!({
            "id": "evt_1", "type": "call.denied", "keyId": null, "actor": "user:ann", "data": null,
            "details": {"call": "li\u{202e}st", "count": "5"},
        });
        assert_eq!(details(&event), "call: li\u{202e}st, count: 5");
        assert_eq!(details(&json!({"details": {}})), "");
        let shown = Table::new(&Screen::new("keyward", false), &EVENTS).page(&[event]);
        assert!(shown.contains("call: li\\u{202e}st, count: 5"), "{shown}");
    }
}
