//! `[database]`: where keys are stored.

use std::path::PathBuf;

use super::{
    section::Section,
    setting::{Setting, Table},
};

/// The table.
pub const TABLE: Table = Table {
    name: "database",
    list: false,
    help: "Where keys are stored.",
    settings: &[URL, MIGRATE_URL, MAX_CONNECTIONS, POOLER],
    tables: &[],
};

const URL: Setting = Setting::new(
    "url",
    "\"sqlite://keyward.db\"",
    "The database: `sqlite://FILE` (created if missing) or `postgres://…` (Postgres 15 or later).",
)
.variable("DATABASE_URL")
.flag("--database-url");

const MIGRATE_URL: Setting = Setting::unset(
    "migrate_url",
    "`database.url`",
    "\"postgres://keyward@postgres.internal/keyward\"",
    "The Postgres URL that migrations use. Set it where `database.url` is a transaction pooler.",
)
.variable("DATABASE_MIGRATE_URL");

const MAX_CONNECTIONS: Setting = Setting::new(
    "max_connections",
    "16",
    "Maximum size of the Postgres connection pool, 2 to 1000. Each replica opens 3 more connections outside the pool.",
);

const POOLER: Setting = Setting::new(
    "pooler",
    "false",
    "Whether `database.url` is a transaction pooler such as PgBouncer: disables prepared statements and `LISTEN`.",
);

/// Where keys are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A `postgres://` URL; it may hold a password.
    Postgres(String),
}

/// `[database]`
#[derive(Debug, Clone)]
pub struct Database {
    /// Where keys are stored.
    pub url: DatabaseUrl,
    /// Where migrations are applied, if `url` is a transaction pooler.
    pub migrate_url: Option<String>,
    /// Maximum size of the connection pool.
    pub max_connections: u32,
    /// Whether `url` is a transaction pooler (PgBouncer): no prepared statements, no LISTEN.
    pub pooler: bool,
}

/// Reads the table.
pub fn read(section: &Section<'_>) -> Option<Database> {
    let url = section.parsed(&URL, database_url);
    let migrate_url = section.parsed(&MIGRATE_URL, |text| match database_url(text)? {
        DatabaseUrl::Postgres(url) => Ok(url),
        DatabaseUrl::Sqlite(_) => Err("must be a postgres:// URL".to_owned()),
    });
    let max_connections = section.number(&MAX_CONNECTIONS, 2..=1_000);
    let pooler = section.boolean(&POOLER);
    Some(Database { url: url?, migrate_url, max_connections: max_connections?, pooler: pooler? })
}

/// The parameters of a Postgres URL that are understood. Any other is refused by its name: one that is ignored could be one
/// that protects the connection.
const PARAMETERS: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];
/// Parameters that other clients of Postgres and of SQLite know. A message may name these.
const KNOWN_ELSEWHERE: &[&str] = &[
    "cache",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "connection_limit",
    "currentSchema",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "immutable",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "mode",
    "nolock",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "passfile",
    "pgbouncer",
    "pool_timeout",
    "psow",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "schema",
    "scram_client_key",
    "scram_server_key",
    "service",
    "servicefile",
    "ssl",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkeylogfile",
    "sslnegotiation",
    "sslpassword",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    "tty",
    "vfs",
];
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// How a message names a parameter. What no client knows is not repeated: it may be the rest of a password in which `?` is
/// not percent-encoded.
fn named(parameter: &str) -> String {
    if KNOWN_ELSEWHERE.contains(&parameter) {
        format!("the parameter {parameter}")
    } else {
        "a parameter of an unknown name (not shown: it may be part of a password with an unescaped '?')".to_owned()
    }
}

/// Checks the parameters of a Postgres URL. A message names a parameter and never its value, which may be a password.
fn check_parameters(url: &url::Url) -> Result<(), String> {
    for (name, value) in url.query_pairs() {
        if !(PARAMETERS.contains(&&*name) || name.starts_with("options[") && name.ends_with(']')) {
            return Err(format!("has {}, which is not supported", named(&name)));
        }
        let valid = match &*name {
            "sslmode" | "ssl-mode" => SSL_MODES.contains(&&*value),
            "port" => value.parse::<u16>().is_ok(),
            "hostaddr" => value.parse::<std::net::IpAddr>().is_ok(),
            "statement-cache-capacity" => value.parse::<usize>().is_ok(),
            _ => true,
        };
        if !valid {
            return Err(format!("has a value of the parameter {name} that is not valid"));
        }
    }
    Ok(())
}

fn database_url(text: &str) -> Result<DatabaseUrl, String> {
    // A file or a variable often ends with a new line.
    let text = text.trim();
    if let Some(path) = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:")) {
        if let Some((_, query)) = path.split_once('?') {
            let name = query.split(['=', '&']).next().unwrap_or_default();
            return Err(format!("has {}, but a sqlite:// URL takes none", named(name)));
        }
        if path.is_empty() || path == ":memory:" {
            return Err("must name a file, such as sqlite://keyward.db".to_owned());
        }
        return Ok(DatabaseUrl::Sqlite(path.into()));
    }
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return match url::Url::parse(text) {
            Ok(url) => check_parameters(&url).map(|()| DatabaseUrl::Postgres(text.to_owned())),
            // The parser's message could hold the password.
            Err(_) => Err("is not a well-formed postgres:// URL".to_owned()),
        };
    }
    Err("must begin with sqlite:// or postgres://".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{DatabaseUrl, database_url};

    #[test]
    fn a_parameter_that_is_not_supported_is_refused_by_its_name_and_without_its_value() {
        for (url, name) in [
            ("postgres://u@h/db?sslpassword=hunter2", "sslpassword"),
            ("postgres://u@h/db?ssl=hunter2", "ssl"),
            ("postgres://u@h/db?target_session_attrs=hunter2", "target_session_attrs"),
            ("postgres://u@h/db?sslmode=hunter2", "sslmode"),
            ("postgres://u@h/db?port=hunter2", "port"),
            ("postgres://u@h/db?user=a&hostaddr=hunter2", "hostaddr"),
            ("sqlite://keyward.db?mode=hunter2", "mode"),
            ("sqlite:keyward.db?vfs=hunter2&cache=shared", "vfs"),
        ] {
            let refused = database_url(url).unwrap_err();
            assert!(refused.contains(name) && !refused.contains("hunter2"), "{url}: {refused}");
        }
    }

    #[test]
    fn a_password_with_an_unescaped_question_mark_is_not_repeated_as_a_name() {
        for url in ["postgres://u:1?hunter2@h/db", "postgres://u:1?a=b&hunter2@h/db", "sqlite://k.db?hunter2"] {
            let refused = database_url(url).unwrap_err();
            assert!(!refused.contains("hunter2"), "{url}: {refused}");
        }
    }

    #[test]
    fn white_space_around_a_url_is_no_part_of_it() {
        assert_eq!(database_url(" sqlite://k.db\n"), Ok(DatabaseUrl::Sqlite("k.db".into())));
        let url = "postgres://u:p@[::1]:5432/db?sslmode=verify-full&options[work_mem]=1MB";
        assert_eq!(database_url(&format!("{url}\r\n")), Ok(DatabaseUrl::Postgres(url.to_owned())));
    }
}
