//! Loads the configuration as a whole.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use toml::de::DeTable;

use super::{
    attach::{self, AttachSettings},
    dashboard::{self, Dashboard},
    database::{self, Database},
    environment, events,
    http::{self, Http},
    keyspace,
    layers::{Flags, Layers, Origins},
    problems::Problems,
    rate_limit::{self, RateLimits},
    replica::{self, ReplicaSettings},
    section::Section,
    server::{self, Server},
    session,
    tables::TABLES,
    tls::{self, TlsSettings},
    webhooks::{self, Webhooks},
};
use crate::domain::{
    event::EventRules,
    keyspace::{Keyspace, Registry},
    master_keys::MasterKey,
    oidc::Issuer,
    secret::Secret,
};

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[database]`
    pub database: Database,
    /// `[server]`
    pub server: Server,
    /// `[tls]`; without it both listeners speak plain text.
    pub tls: Option<TlsSettings>,
    /// `[replica]`
    pub replica: ReplicaSettings,
    /// `[attach]`
    pub attach: AttachSettings,
    /// `[http]`
    pub http: Http,
    /// `[dashboard]`
    pub dashboard: Dashboard,
    /// `[webhooks]`
    pub webhooks: Webhooks,
    /// `[events]`
    pub events: EventRules,
    /// `[rate_limit]`
    pub rate_limit: RateLimits,
    /// `[[session.issuer]]`
    pub issuers: Vec<Issuer>,
    /// `[[keyspace]]`
    pub registry: Arc<Registry>,
    /// `KEYWARD_ROOT_KEY`
    pub root_key: Option<Secret>,
    /// `KEYWARD_MASTER_KEY`: the first key signs, all of them verify. Empty: the database holds one.
    pub master_keys: Vec<MasterKey>,
    /// Where each setting comes from.
    pub origins: Origins,
    /// Warnings about settings that are valid but probably not intended, each with its line and key.
    pub warnings: Vec<String>,
}

/// Loads the configuration. Without a file it consists of defaults, environment and flags. A variable of `environment`
/// must not be empty.
///
/// # Errors
///
/// Every problem, each with its line and key.
pub fn load(flags: &Flags, environment: &HashMap<String, String>) -> Result<Config, Vec<String>> {
    let Some(file) = file(flags, environment) else { return parse("", "", flags, environment) };
    let text = std::fs::read_to_string(&file).map_err(|error| vec![format!("{}: {error}", file.display())])?;
    parse(&file.display().to_string(), &text, flags, environment)
}

/// The file of the configuration, if there is one.
pub fn file(flags: &Flags, environment: &HashMap<String, String>) -> Option<PathBuf> {
    let variable = environment::CONFIG.variable.and_then(|variable| environment.get(variable));
    flags.config.clone().or_else(|| variable.map(PathBuf::from))
}

/// Reads the configuration from the text of a file.
///
/// # Errors
///
/// Every problem, each with its line and key.
pub fn parse(
    file: &str,
    text: &str,
    flags: &Flags,
    environment: &HashMap<String, String>,
) -> Result<Config, Vec<String>> {
    let problems = Problems::new(file, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        problems.at(error.span().map_or(0, |span| span.start), "", error.message());
    }
    if !errors.is_empty() {
        // Stop here: settings that the parser skipped would also be reported as missing.
        return Err(problems.into_vec());
    }
    let layers = Layers::new(problems, flags, environment);
    let config = read(&Section::root(document.get_ref(), &TABLES, &layers), &layers);
    let (problems, warnings, origins) = layers.finish();
    match config {
        Some(config) if problems.is_empty() => Ok(Config { origins, warnings, ..config }),
        _ => Err(problems),
    }
}

/// Reads every table before it answers, so that every problem is found.
fn read(root: &Section<'_>, layers: &Layers<'_>) -> Option<Config> {
    let database = database::read(&root.table(&database::TABLE));
    let replica = replica::read(&root.table(&replica::TABLE));
    let attach = attach::read(&root.table(&attach::TABLE));
    let sections = root.list(&keyspace::settings::TABLE);
    let drafts = keyspace::read(&sections);
    let default = sections.is_empty().then(Keyspace::default_keyspace);
    let names: Vec<String> = drafts.iter().filter_map(|draft| draft.name.clone()).collect();
    let names = names.iter().chain(default.as_ref().map(|default| &default.name)).map(String::as_str);
    let names: Vec<&str> = names.collect();
    let keyspaces: Vec<Keyspace> =
        drafts.into_iter().filter_map(|draft| draft.keyspace).chain(default.clone()).collect();
    let tls = tls::read(&root.table(&tls::TABLE), &names);
    let server = server::read(&root.table(&server::TABLE), tls.is_some());
    let http = http::read(&root.table(&http::TABLE), &names, &keyspaces);
    let issuers = session::read(&root.table(&session::TABLE), &names);
    let rate_limit = rate_limit::read(&root.table(&rate_limit::TABLE));
    let dashboard = dashboard::read(&root.table(&dashboard::TABLE));
    let webhooks = webhooks::read(&root.table(&webhooks::TABLE));
    let events = events::read(&root.table(&events::TABLE));
    let root_key = environment::root_key(layers);
    let master_keys = environment::master_keys(layers);
    Some(Config {
        database: database?,
        server: server?,
        tls,
        replica: replica?,
        attach: attach?,
        http: http?,
        dashboard: dashboard?,
        webhooks: webhooks?,
        events: events?,
        rate_limit: rate_limit?,
        issuers,
        registry: Arc::new(Registry::new(keyspaces)),
        root_key,
        master_keys,
        origins: Origins::default(),
        warnings: Vec::new(),
    })
}
