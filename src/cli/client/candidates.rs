//! What a shell offers to complete: ids, organizations, scopes and keyspaces of the service, and known environments.

use std::time::Duration;

use clap_complete::CompletionCandidate;
use serde_json::Value;

use super::{
    api::{self, Api},
    environment::{Environment, Flags},
    failure::Result,
    product::Product,
    runtime,
    sign_in::oauth,
    text::escape,
};

/// Timeout of a request for candidates, because the shell blocks meanwhile.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The environments that have a folder.
pub fn environments() -> Vec<CompletionCandidate> {
    let product = Product::of(std::env::args_os().next().as_deref());
    let entries = product.folder().and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten();
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| is_plain(name)).map(CompletionCandidate::new).collect()
}

/// Ids of keys, with their names.
pub fn keys() -> Vec<CompletionCandidate> {
    let found = query_service(async |environment| {
        let organization = environment.organization()?.unwrap_or_default();
        let query = [("limit", "100"), ("orgId", organization.as_str())];
        Api::connect(environment).await?.get(&["api", "api-keys"], &query).await
    });
    each(&found, "keys", "id", |key| key["name"].as_str().map(escape))
}

/// The caller's organizations.
pub fn organizations() -> Vec<CompletionCandidate> {
    let found =
        query_service(async |environment| Api::connect(environment).await?.get(&["api", "v1", "whoami"], &[]).await);
    each(&found, "organizations", "id", |organization| organization["role"].as_str().map(str::to_owned))
}

/// Names of keyspaces.
pub fn keyspaces() -> Vec<CompletionCandidate> {
    each(&offered(), "keyspaces", "name", |_| None)
}

/// Scopes of all keyspaces.
pub fn scopes() -> Vec<CompletionCandidate> {
    let offered = offered();
    let keyspaces = offered["keyspaces"].as_array().into_iter().flatten();
    let scopes = keyspaces.flat_map(|keyspace| keyspace["scopes"].as_array().into_iter().flatten());
    scopes.filter_map(Value::as_str).filter(|scope| is_plain(scope)).map(CompletionCandidate::new).collect()
}

fn offered() -> Value {
    query_service(async |environment| {
        let service = oauth::service(&api::http(environment)?, &environment.url()?, "").await?;
        Ok(serde_json::json!({"keyspaces": service.keyspaces}))
    })
}

/// Whether a shell reads a text as one word. A shell inserts candidates into its command line unescaped: an
/// organization named `$(…)` would be executed.
fn is_plain(text: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '@' | '+' | ',');
    !text.is_empty() && !text.starts_with('-') && text.chars().all(plain)
}

fn each(found: &Value, list: &str, name: &str, help: impl Fn(&Value) -> Option<String>) -> Vec<CompletionCandidate> {
    let items = found[list].as_array().into_iter().flatten();
    items
        .filter_map(|item| {
            let text = item[name].as_str().filter(|text| is_plain(text))?;
            Some(CompletionCandidate::new(text).help(help(item).map(Into::into)))
        })
        .collect()
}

/// Queries the service. Null if that fails or times out, because a shell cannot show an error.
fn query_service(question: impl AsyncFnOnce(&Environment) -> Result<Value>) -> Value {
    let product = Product::of(std::env::args_os().next().as_deref());
    let flags = Flags { quiet: true, timeout: Some(TIMEOUT), ..Flags::default() };
    let Ok(environment) = Environment::new(product, flags) else { return Value::Null };
    let result = runtime::block_on(async {
        tokio::time::timeout(TIMEOUT, question(&environment)).await.ok().and_then(Result::ok)
    });
    result.unwrap_or_default()
}
