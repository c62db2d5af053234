//! The typed configuration: built-in defaults < TOML file < environment < flags. Every problem is reported at once.

mod events;
mod keyspace;
mod reader;
mod server;
mod session;
mod tls;
mod webhooks;

use std::{collections::HashMap, fmt::Display, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use toml::de::DeTable;
use zeroize::Zeroizing;

pub use self::webhooks::Webhooks;
use crate::domain::{
    event::EventRules,
    keyspace::{Keyspace, Registry},
    master_keys::{MasterKey, fingerprint},
    oidc::Issuer,
    rate_limit::{DEFAULT_PUBLIC_CREATE_LIMIT, RateLimit},
    secret::Secret,
};
use keyspace::Draft;
use reader::{Problems, Section};
pub use server::Server;
pub use tls::{Tls, TlsClient, TlsRole};

/// Where keys are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A file.
    Sqlite(PathBuf),
    /// A `postgres://` URL; it may hold a password.
    Postgres(String),
}

/// `[database]`
#[derive(Debug, Clone)]
pub struct Database {
    /// Where keys are kept.
    pub url: DatabaseUrl,
    /// Where migrations go, when `url` is a transaction pooler's.
    pub migrate_url: Option<String>,
    /// Connections of the pool, at most.
    pub max_connections: u32,
    /// Whether `url` is a transaction pooler's (PgBouncer): no prepared statements, no LISTEN.
    pub pooler: bool,
}

/// `[replica]`
#[derive(Debug, Clone)]
pub struct Replica {
    /// How long memory may answer without word from the database, and how long a Revoke may wait for a replica that
    /// does not answer.
    pub lease: Duration,
    /// Bytes of cached keys.
    pub cache_bytes: u64,
}

/// `[http]`
#[derive(Debug, Clone)]
pub struct Http {
    /// The keyspace of `POST /api/v1/keys` when the request names none.
    pub default_keyspace: Option<String>,
    /// The environment that every REST check of a product's key asserts; empty asserts nothing.
    pub environment: String,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Creations without a credential, for each client address.
    pub public_create_limit: RateLimit,
}

/// Where spent limits are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RateLimitStore {
    /// In each replica's own memory.
    Memory,
    /// In a Redis or Valkey that replicas share. The URL may hold a password.
    Redis(String),
}

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[database]`
    pub database: Database,
    /// `[server]`
    pub server: Server,
    /// `[tls]`; none: both listeners speak plain text.
    pub tls: Option<Tls>,
    /// `[replica]`
    pub replica: Replica,
    /// `[http]`
    pub http: Http,
    /// `[webhooks]`
    pub webhooks: Webhooks,
    /// `[events]`
    pub events: EventRules,
    /// `rate_limit.store`
    pub rate_limit_store: RateLimitStore,
    /// `rate_limit.batch`: permits that one round trip takes at most.
    pub rate_limit_batch: u32,
    /// `[[session.issuer]]`
    pub issuers: Vec<Issuer>,
    /// `[[keyspace]]`
    pub registry: Arc<Registry>,
    /// The root credential of the environment.
    pub root_key: Option<Secret>,
    /// The installation keys of the environment: the first makes, all verify. Empty: the database keeps one.
    pub master_keys: Vec<MasterKey>,
}

/// What the command line may set.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--database-url`
    pub database_url: Option<String>,
    /// `--grpc-addr`
    pub grpc_addr: Option<String>,
    /// `--http-addr`
    pub http_addr: Option<String>,
    /// `--insecure`
    pub insecure: bool,
}

/// Loads the configuration from the file that the flags or the environment name, or else from defaults alone.
///
/// # Errors
///
/// Every problem, each with its line and key.
pub fn load(flags: &Flags, environment: &HashMap<String, String>) -> Result<Config, Vec<String>> {
    let file = flags.config.clone().or_else(|| given(environment, "KEYWARD_CONFIG").map(PathBuf::from));
    let Some(file) = file else { return parse("", "", flags, environment) };
    let text = std::fs::read_to_string(&file).map_err(|error| vec![format!("{}: {error}", file.display())])?;
    parse(&file.display().to_string(), &text, flags, environment)
}

/// A variable that is not empty: what names a file or an environment is as good as unset if it is.
fn given<'a>(environment: &'a HashMap<String, String>, variable: &str) -> Option<&'a String> {
    environment.get(variable).filter(|value| !value.is_empty())
}

/// Reads a configuration from the text of a file.
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
    // What could not be read would only be reported a second time, as missing.
    let config = if errors.is_empty() {
        let root = Section::root(document.get_ref(), &problems);
        Some(read(&root, &Source { problems: &problems, environment, flags }))
    } else {
        None
    };
    let problems = problems.into_vec();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

/// Settings from outside the document.
struct Source<'a> {
    problems: &'a Problems,
    environment: &'a HashMap<String, String>,
    flags: &'a Flags,
}

impl Source<'_> {
    /// The strongest of flag, environment and file, parsed.
    fn setting<T>(
        &self,
        section: &Section<'_>,
        name: &'static str,
        variable: &'static str,
        flag: Option<&String>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let in_file = section.text(name);
        if let Some(text) = flag {
            return self.outside(&format!("--{}", name.replace('_', "-")), parse(text));
        }
        if let Some(text) = self.environment.get(variable) {
            return self.outside(variable, parse(text));
        }
        let found = in_file?;
        parse(&found.value).map_err(|what| self.problems.at(found.offset, &found.key, what)).ok()
    }

    /// A problem with what a setting was given, where it was given.
    fn at_setting(
        &self,
        section: &Section<'_>,
        name: &'static str,
        variable: &'static str,
        flag: Option<&String>,
        what: &str,
    ) {
        if flag.is_some() {
            self.problems.outside(&format!("--{}", name.replace('_', "-")), what);
        } else if self.environment.contains_key(variable) {
            self.problems.outside(variable, what);
        } else {
            section.problem(name, what);
        }
    }

    fn outside<T>(&self, key: &str, value: Result<T, String>) -> Option<T> {
        value.map_err(|what| self.problems.outside(key, what)).ok()
    }

    fn variable<T>(&self, variable: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.environment.get(variable).and_then(|text| self.outside(variable, parse(text)))
    }
}

fn read(root: &Section<'_>, source: &Source<'_>) -> Config {
    let database = database(&root.section("database"), source);
    let replica = replica(&root.section("replica"), source);
    let sections = root.sections("keyspace");
    let drafts = keyspace::read(&sections);
    let default = sections.is_empty().then(Keyspace::default_keyspace);
    let names = drafts.iter().filter_map(|draft| draft.name.as_deref());
    let names: Vec<&str> = names.chain(default.as_ref().map(|default| default.name.as_str())).collect();
    let tls = tls::read(&root.section("tls"), source, &names);
    let server = server::read(&root.section("server"), source, tls.is_some());
    let http_section = root.section("http");
    let http = http(&http_section, source, &names);
    let issuers = session::read(&root.section("session"), &names);
    let keyspaces: Vec<Keyspace> = drafts.into_iter().filter_map(Draft::keyspace).chain(default).collect();
    let (rate_limit_store, rate_limit_batch) = rate_limit(&root.section("rate_limit"), source);
    let webhooks = webhooks::read(&root.section("webhooks"), source);
    let events = events::read(&root.section("events"));
    let root_key = source.variable("KEYWARD_ROOT_KEY", root_key);
    environment_is_known(&http, &keyspaces, &http_section, source);
    let master_keys = source.variable("KEYWARD_MASTER_KEY", master_keys).unwrap_or_default();
    Config {
        database,
        server,
        tls,
        replica,
        http,
        webhooks,
        events,
        rate_limit_store,
        rate_limit_batch,
        issuers,
        registry: Arc::new(Registry::new(keyspaces)),
        root_key,
        master_keys,
    }
}

/// A root credential that a header can carry: what it could not would start well and never be good.
fn root_key(text: &str) -> Result<Secret, String> {
    if text.chars().count() < 32 {
        return Err("must be 32 or more characters".to_owned());
    }
    if text.trim().len() != text.len() {
        return Err("must not begin or end with white space, such as a line's end".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("must hold no control characters: a header carries none".to_owned());
    }
    Ok(Secret::new(text.to_owned()))
}

/// An environment that no keyspace has would refuse every key.
fn environment_is_known(http: &Http, keyspaces: &[Keyspace], section: &Section<'_>, source: &Source<'_>) {
    let mut asked = keyspaces.iter().filter(|keyspace| keyspace.require.environment).peekable();
    if http.environment.is_empty() || asked.peek().is_none() {
        return;
    }
    if asked.all(|keyspace| keyspace.prefixes.for_environment(&http.environment).is_none()) {
        let what = "is an environment of no keyspace that requires one";
        source.at_setting(section, "environment", "KEYWARD_HTTP_ENVIRONMENT", None, what);
    }
}

fn database(section: &Section<'_>, source: &Source<'_>) -> Database {
    let url = source.setting(section, "url", "DATABASE_URL", source.flags.database_url.as_ref(), database_url);
    let migrate_url =
        source.setting(section, "migrate_url", "DATABASE_MIGRATE_URL", None, |text| match database_url(text)? {
            DatabaseUrl::Postgres(url) => Ok(url),
            DatabaseUrl::Sqlite(_) => Err("must be a postgres:// URL".to_owned()),
        });
    Database {
        url: url.unwrap_or_else(|| DatabaseUrl::Sqlite("keyward.db".into())),
        migrate_url,
        max_connections: section.number("max_connections", 2..=1_000).and_then(|n| u32::try_from(n).ok()).unwrap_or(16),
        pooler: section.flag("pooler").unwrap_or(false),
    }
}

fn database_url(text: &str) -> Result<DatabaseUrl, String> {
    if let Some(path) = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:")) {
        let path = path.split('?').next().unwrap_or_default();
        if path.is_empty() || path == ":memory:" {
            return Err("must name a file, such as sqlite://keyward.db".to_owned());
        }
        return Ok(DatabaseUrl::Sqlite(path.into()));
    }
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return match url::Url::parse(text) {
            Ok(_) => Ok(DatabaseUrl::Postgres(text.to_owned())),
            // The parser's own words could hold the password.
            Err(_) => Err("is not a well-formed postgres:// URL".to_owned()),
        };
    }
    Err("must begin with sqlite:// or postgres://".to_owned())
}

fn replica(section: &Section<'_>, source: &Source<'_>) -> Replica {
    let lease = source.setting(section, "lease", "KEYWARD_REPLICA_LEASE", None, |text| {
        let lease = humantime::parse_duration(text).ok();
        lease
            .filter(|lease| (Duration::from_millis(300)..=Duration::from_mins(1)).contains(lease))
            .ok_or_else(|| "must be a length of time from 300ms to 60s".to_owned())
    });
    let cache = source.setting(section, "cache", "KEYWARD_REPLICA_CACHE", None, bytes);
    Replica { lease: lease.unwrap_or(Duration::from_secs(3)), cache_bytes: cache.unwrap_or(256 << 20) }
}

fn bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1_u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let read = units.iter().find_map(|(unit, size)| {
        let number = text.strip_suffix(unit)?.trim().parse::<u64>().ok()?;
        number.checked_mul(*size)
    });
    read.filter(|bytes| (1 << 20..=1 << 40).contains(bytes))
        .ok_or_else(|| "must be a size from 1MiB to 1024GiB, such as \"256MiB\"".to_owned())
}

fn http(section: &Section<'_>, source: &Source<'_>, keyspaces: &[&str]) -> Http {
    let default_keyspace = section.text("default_keyspace").map(|found| found.value);
    if let Some(name) = &default_keyspace
        && !keyspaces.contains(&name.as_str())
    {
        section.problem("default_keyspace", format_args!("there is no keyspace \"{name}\""));
    }
    let environment = source.setting(section, "environment", "KEYWARD_HTTP_ENVIRONMENT", None, |text| {
        if text.chars().count() <= 128 { Ok(text.to_owned()) } else { Err("must be at most 128 characters".to_owned()) }
    });
    Http {
        default_keyspace,
        environment: environment.unwrap_or_default(),
        trusted_proxies: webhooks::networks(section, "trusted_proxies"),
        public_create_limit: keyspace::rate_limit(section, "public_create_limit")
            .unwrap_or(DEFAULT_PUBLIC_CREATE_LIMIT),
    }
}

fn rate_limit(section: &Section<'_>, source: &Source<'_>) -> (RateLimitStore, u32) {
    let store = source.setting(section, "store", "KEYWARD_RATE_LIMIT_STORE", None, |text| {
        if text == "memory" {
            return Ok(RateLimitStore::Memory);
        }
        // The parsers' own words could hold the password.
        let url =
            url::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "redis" | "rediss" | "valkey" | "valkeys"));
        if url.is_none_or(|url| url.host_str().is_none_or(str::is_empty)) {
            return Err("must be \"memory\" or a redis:// URL with a host".to_owned());
        }
        // The client has a mind of its own on what follows the host.
        match redis::Client::open(text) {
            Ok(_) => Ok(RateLimitStore::Redis(text.to_owned())),
            Err(_) => Err("is not a redis:// URL such as redis://user:password@host:6379/0".to_owned()),
        }
    });
    let batch = section.number("batch", 1..=10_000).and_then(|batch| u32::try_from(batch).ok());
    (store.unwrap_or(RateLimitStore::Memory), batch.unwrap_or(1))
}

/// Master keys at once; a rotation needs two.
const MASTER_KEYS: usize = 8;

fn master_keys(text: &str) -> Result<Vec<MasterKey>, String> {
    let keys: Vec<MasterKey> = text.split(',').map(master_key).collect::<Result<_, _>>()?;
    if keys.len() > MASTER_KEYS {
        return Err(format!("must be at most {MASTER_KEYS} keys, separated by commas"));
    }
    // By what names them: nothing compares keys but in constant time.
    let names: Vec<String> = keys.iter().map(fingerprint).collect();
    if names.iter().enumerate().any(|(at, name)| names[..at].contains(name)) {
        return Err("must not hold a key twice".to_owned());
    }
    Ok(keys)
}

fn master_key(text: &str) -> Result<MasterKey, String> {
    let explain = |_: &dyn Display| {
        "must be 32 bytes in base64 (openssl rand -base64 32), or several, separated by commas".to_owned()
    };
    let bytes = Zeroizing::new(data_encoding::BASE64.decode(text.trim().as_bytes()).map_err(|error| explain(&error))?);
    let mut key = MasterKey::new([0; 32]);
    if bytes.len() != key.len() {
        return Err(explain(&"length"));
    }
    key.copy_from_slice(&bytes);
    Ok(key)
}

#[cfg(test)]
mod tests;
