//! `[database]`: where keys are stored.

use std::path::PathBuf;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::{
    section::Section,
    setting::{Setting, Table},
};
use crate::domain::server_url;

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

/// Whether a `postgres://` URL allows sending the password to a server on another machine without TLS.
pub fn sends_password_without_tls(url: &str) -> bool {
    url.trim().parse::<PgConnectOptions>().is_ok_and(|connect| {
        let host = connect.get_host();
        let is_socket = connect.get_socket().is_some() || host.starts_with('/');
        matches!(connect.get_ssl_mode(), PgSslMode::Disable) && !is_socket && !server_url::is_loopback(host)
    })
}

fn database_url(text: &str) -> Result<DatabaseUrl, String> {
    if let Some(path) = server_url::sqlite(text) {
        return Ok(DatabaseUrl::Sqlite(path?.into()));
    }
    let url = server_url::postgres(text).ok_or("must begin with sqlite:// or postgres://")??;
    // Parse it with the driver as well, to find what only the driver refuses. Its message could hold the password.
    match url.parse::<PgConnectOptions>() {
        Ok(_) => Ok(DatabaseUrl::Postgres(url.to_owned())),
        Err(_) => Err("is not a well-formed postgres:// URL".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{DatabaseUrl, database_url, sends_password_without_tls};

    #[test]
    fn a_password_is_given_away_where_a_server_elsewhere_needs_no_tls() {
        for (url, away) in [
            ("postgres://u:p@db.example/db?sslmode=disable", true),
            ("postgres://u:p@10.0.0.1/db?ssl-mode=disable", true),
            ("postgres://u:p@localhost/db?sslmode=disable&host=db.example", true),
            ("postgres://u:p@[2001:db8::1]/db?sslmode=disable", true),
            ("postgres://u:p@localhost/db?sslmode=disable", false),
            ("postgres://u:p@127.0.0.1/db?sslmode=disable", false),
            ("postgres://u:p@[::1]/db?sslmode=disable", false),
            ("postgres://u:p@%2Fvar%2Frun%2Fpostgresql/db?sslmode=disable", false),
            ("postgres://u:p@db.example/db?sslmode=verify-full", false),
            ("postgres://u:p@db.example/db", false),
        ] {
            assert_eq!(sends_password_without_tls(url), away, "{url}");
        }
    }

    #[test]
    fn a_url_is_read_without_the_white_space_around_it() {
        assert_eq!(database_url(" sqlite://k.db\n"), Ok(DatabaseUrl::Sqlite("k.db".into())));
        let url = "postgres://u:p@[::1]:5432/db?sslmode=verify-full&options[work_mem]=1MB";
        assert_eq!(database_url(&format!("{url}\r\n")), Ok(DatabaseUrl::Postgres(url.to_owned())));
        for bad in ["mysql://h", "", "postgres://u@h/db?ssl=1", "sqlite://", "k.db"] {
            assert!(database_url(bad).is_err(), "{bad}");
        }
    }
}
