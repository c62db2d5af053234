//! `keys verify`: the secret comes from standard input, never from an argument, which every user of the machine sees.

use std::io::Read as _;

use reqwest::Method;
use serde_json::{Value, json};

use super::{super::list::text, show::time};
use crate::cli::client::{
    api::Api,
    args::Verify,
    environment::Environment,
    failure::{Exit, Failure, Result},
    output, table, terminal,
};

const MAX_SECRET_BYTES: u64 = 64 << 10;

pub async fn verify(environment: &Environment, arguments: &Verify) -> Result {
    let screen = &environment.screen;
    if environment.api_key().is_none() {
        // A session is never sufficient: fail before a secret is typed in.
        let variable = environment.product.variable("API_KEY");
        return Err(Failure::not_signed_in("verifying is for operators and services, and not for a session")
            .hint(format_args!("Set {variable} to the key of one.")));
    }
    let secret = if screen.can_ask {
        terminal::secret("Secret (not shown): ").await?
    } else {
        let mut read = String::new();
        let limited = std::io::stdin().lock().take(MAX_SECRET_BYTES).read_to_string(&mut read);
        limited.map_err(|error| Failure::usage(format_args!("standard input: {error}")))?;
        read
    };
    let secret = secret.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(Failure::usage("standard input has no secret")
            .hint(format_args!("printf %s \"$SECRET\" | {} keys verify", environment.product.name)));
    }
    let mut body = json!({"secret": secret, "requiredScopes": arguments.scopes});
    let organization = environment.organization()?;
    for (name, value) in [
        ("organization", &organization),
        ("instance", &arguments.instance),
        ("environment", &arguments.environment),
        ("keyspace", &arguments.keyspace),
    ] {
        if let Some(value) = value {
            body[name] = value.as_str().into();
        }
    }
    if let Some(cost) = arguments.cost {
        body["cost"] = cost.into();
    }
    let mut api = Api::connect(environment).await?;
    let verdict = screen.wait("verifying", api.change(Method::POST, &["api", "v1", "verify"], &[], &body)).await?;
    output::object(screen, environment.format(), &verdict, || {
        let scopes = verdict["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let message = if verdict["code"] == "VALID" { String::new() } else { text(&verdict, "message") };
        table::facts(
            screen,
            &[
                ("Verdict", text(&verdict, "code")),
                ("Why", message),
                ("Key", text(&verdict, "keyId")),
                ("Name", text(&verdict, "name")),
                ("Keyspace", text(&verdict, "keyspace")),
                ("Organization", text(&verdict, "organization")),
                ("Instance", text(&verdict, "instance")),
                ("Environment", text(&verdict, "environment")),
                ("Scopes", scopes.collect::<Vec<_>>().join(",")),
                ("Expires", time(&verdict, "expireTime", "")),
            ],
        )
    })?;
    if verdict["code"] == "VALID" { Ok(()) } else { Err(Failure::silent(Exit::NotValid)) }
}
