//! `keys list` and `keys get`.

use serde_json::Value;

use super::super::list::{organization, pages, text};
use crate::cli::client::{
    api::Api,
    args::List,
    environment::Environment,
    failure::Result,
    output,
    screen::Screen,
    table::{self, Column},
    text::{now, parse_time, relative},
};

const COLUMNS: [Column; 8] = [
    Column { title: "NAME", cell: |key| text(key, "name"), min: 8, id: false },
    Column { title: "ID", cell: |key| text(key, "id"), min: 30, id: true },
    Column { title: "PREFIX", cell: |key| text(key, "prefix"), min: 12, id: false },
    Column { title: "SCOPES", cell: |key| scopes(key), min: 6, id: false },
    Column { title: "STATUS", cell: |key| text(key, "status"), min: 7, id: false },
    Column { title: "LAST USED", cell: |key| time(key, "lastUsedAt", "never"), min: 9, id: false },
    Column { title: "EXPIRES", cell: |key| time(key, "expiresAt", "never"), min: 7, id: false },
    Column { title: "CREATED BY", cell: |key| text(key, "createdBy"), min: 10, id: false },
];

pub async fn list(environment: &Environment, arguments: &List) -> Result {
    let organization = organization(environment)?;
    let given = |value: &'_ Option<String>| value.clone().unwrap_or_default();
    let (status, keyspace) = (given(&arguments.status), given(&arguments.keyspace));
    let (instance, own_environment) = (given(&arguments.instance), given(&arguments.environment));
    let created_by = given(&arguments.created_by);
    let query = [
        ("status", status.as_str()),
        ("keyspace", &keyspace),
        ("orgId", &organization),
        ("instanceId", &instance),
        ("environment", &own_environment),
        ("createdBy", &created_by),
    ];
    pages(environment, &["api", "api-keys"], "keys", &query, &arguments.extent, &COLUMNS).await
}

pub async fn get(environment: &Environment, id: &str) -> Result {
    let mut api = Api::connect(environment).await?;
    let organization = organization(environment)?;
    let query = [("orgId", organization.as_str())];
    let key = environment.screen.wait("asking", api.get(&["api", "api-keys", id], &query)).await?;
    output::object(&environment.screen, environment.format(), &key, || facts(&environment.screen, &key))
}

/// Everything about a key, for people.
pub fn facts(screen: &Screen, key: &Value) -> String {
    let metadata = key["metadata"].as_object().into_iter().flatten();
    let metadata = metadata.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
    table::facts(
        screen,
        &[
            ("Name", text(key, "name")),
            ("Id", text(key, "id")),
            ("Prefix", text(key, "prefix")),
            ("Scopes", scopes(key)),
            ("Status", text(key, "status")),
            ("Created", time(key, "createdAt", "")),
            ("Created by", text(key, "createdBy")),
            ("Last used", time(key, "lastUsedAt", "never")),
            ("Expires", time(key, "expiresAt", "never")),
            ("Revoked", time(key, "revokedAt", "")),
            ("Organization", text(key, "orgId")),
            ("Instance", text(key, "instanceId")),
            ("Environment", text(key, "environment")),
            ("Webhook", text(key, "webhook")),
            ("Metadata", metadata.collect::<Vec<_>>().join(" ")),
        ],
    )
}

fn scopes(key: &Value) -> String {
    key["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

/// A time in words; `never` where there is none.
pub fn time(item: &Value, name: &str, never: &str) -> String {
    item[name].as_str().and_then(parse_time).map_or_else(|| never.to_owned(), |at| relative(at, now()))
}
