//! Reading configurations in memory. The program's own behaviour is tested in `tests/api/config.rs`.

#![expect(clippy::similar_names, reason = "two products' names are a letter apart")]

mod keyspace;
mod layers;
mod routes;
mod session;
mod webhooks;

use std::{collections::HashMap, time::Duration};

use super::{Config, DatabaseUrl, Flags, parse};
use crate::domain::{
    clock::SECOND,
    keyspace::{CredentialHeader, Prefixes, RequiredBinding},
    rate_limit::{DEFAULT_FAILED_AUTHENTICATION_LIMIT, DEFAULT_PUBLIC_CREATE_LIMIT, RateLimit},
    secret::Encoding,
};

const SECRET: &str = "secret = { encoding = \"base64url\", bytes = 32 }";

fn environment(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn valid_config(text: &str) -> Config {
    parse("f", text, &Flags::default(), &HashMap::new()).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// The problems of a text, without the file's name.
fn problems(text: &str) -> Vec<String> {
    let problems = parse("f", text, &Flags::default(), &HashMap::new()).err().unwrap_or_default();
    problems.into_iter().map(|problem| problem.strip_prefix("f:").unwrap_or(&problem).to_owned()).collect()
}

/// A keyspace with more settings; its first line is the file's first.
fn keyspace(more: &str) -> String {
    format!("[[keyspace]]\nname = \"x\"\nprefix = \"x_\"\n{SECRET}\n{more}\n")
}

#[test]
fn without_a_file_every_setting_has_its_default_and_there_is_one_plain_keyspace() {
    let config = valid_config("");
    let [only] = config.registry.configured() else { panic!("one keyspace") };
    assert_eq!((only.name.as_str(), &only.prefixes), ("default", &Prefixes::One("ak_".to_owned())));
    assert_eq!((only.encoding, only.credential), (Encoding::Alphanumeric { length: 32 }, CredentialHeader::Bearer));
    assert_eq!((&only.scopes, only.default_ttl, only.rate_limit), (&None, None, None));
    assert!(!only.public_create && !only.self_service && only.require == RequiredBinding::default());
    assert_eq!(config.database.url, DatabaseUrl::Sqlite("keyward.db".into()));
    assert_eq!(config.server.grpc_addr.to_string(), "127.0.0.1:50051");
    assert_eq!(config.server.http_addr.to_string(), "127.0.0.1:8080");
    assert_eq!(config.server.metrics_addr, None);
    assert_eq!(config.replica.lease, Duration::from_secs(3));
    assert_eq!(config.http.public_create_limit, DEFAULT_PUBLIC_CREATE_LIMIT);
    assert_eq!(config.server.failed_authentications, DEFAULT_FAILED_AUTHENTICATION_LIMIT);
    assert!(config.root_key.is_none() && config.master_keys.is_empty() && config.http.environment.is_empty());
}

#[test]
fn the_ready_configs_are_valid_and_set_what_the_products_need() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let read = |name: &str| valid_config(&std::fs::read_to_string(format!("{folder}/{name}.toml")).unwrap());
    let all = read("all");
    assert_eq!(all.http.default_keyspace.as_deref(), Some("noro"));
    for name in ["norrix", "noro", "nora"] {
        let config = read(name);
        let [only] = config.registry.configured() else { panic!("{name}: one keyspace") };
        assert_eq!(Some(only), all.registry.by_name(name), "{name} is the same alone and with the others");
        assert!(config.http.environment.is_empty(), "{name}: the host's environment is left unset");
    }
    let cognito = read("cognito");
    assert_eq!(cognito.registry.configured()[0], *all.registry.by_name("norrix").unwrap());
    assert_eq!((cognito.issuers.len(), &*cognito.issuers[0].keyspaces), (1, &["norrix".to_owned()][..]));
    let norrix = all.registry.by_name("norrix").unwrap();
    assert_eq!(norrix.default_scopes, ["build", "submit", "update"]);
    assert_eq!(norrix.admin_scope.as_deref(), Some("admin"));
    let noro = all.registry.by_name("noro").unwrap();
    assert_eq!(noro.default_ttl, Some(Duration::from_hours(90 * 24)));
    assert_eq!(noro.rate_limit, Some(RateLimit { limit: 100, window: 60 * SECOND }));
    assert!(noro.public_create && noro.self_service);
    let nora = all.registry.by_name("nora").unwrap();
    assert_eq!(
        (nora.prefixes.for_environment("sandbox"), nora.prefixes.for_environment("production")),
        (Some("sk_test_"), Some("sk_live_"))
    );
    assert_eq!(nora.credential, CredentialHeader::XApiKey);
    assert_eq!(nora.require, RequiredBinding { organization: true, instance: true, environment: true });
}

#[test]
fn every_syntax_error_is_reported_with_its_line() {
    let found = problems("a = \n[server]\nhttp_addr = \"127.0.0.1:1\n[http\n");
    let lines: Vec<&str> = found.iter().map(|problem| problem.split(':').next().unwrap()).collect();
    assert_eq!(lines, ["1", "3", "4"], "{found:?}");
    assert_eq!(problems("a = 1\na = 2\n").len(), 1);
}

#[test]
fn no_problem_repeats_a_password() {
    let text = "[database]\nurl = \"postgres://user:hunter2@[bad/db\"\nmigrate_url = \"mysql://user:hunter2@x\"";
    let found = problems(text);
    assert!(found.len() == 2 && !found.join("\n").contains("hunter2"), "{found:?}");
}
