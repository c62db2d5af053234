//! How connections to Postgres are opened, and which servers are refused.

use std::time::Duration;

use sqlx::{
    ConnectOptions as _, Executor as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};

use super::{options::PostgresOptions, pinned};
use crate::{
    domain::server_url,
    store::error::{OpenError, Unavailability},
};

fn invalid_url(error: sqlx::Error) -> OpenError {
    match error {
        sqlx::Error::Configuration(reason) => OpenError::Url(reason.to_string()),
        other => OpenError::Url(other.to_string()),
    }
}

/// Reads a URL. An IPv6 address is written in brackets there, which are no part of the address.
fn read_url(url: &str) -> Result<PgConnectOptions, OpenError> {
    let url = server_url::postgres(url).unwrap_or_else(|| Err("must begin with postgres://".to_owned()));
    let connect: PgConnectOptions = url.map_err(OpenError::Url)?.parse().map_err(invalid_url)?;
    let host = connect.get_host().strip_prefix('[').and_then(|host| host.strip_suffix(']')).map(str::to_owned);
    Ok(with_tls(match host {
        Some(address) => connect.host(&address),
        None => connect,
    }))
}

/// Requires TLS of a server that is not on this machine, unless the URL has `sslmode=disable`. Otherwise an attacker
/// who answers in its place can obtain the password by refusing TLS.
fn with_tls(connect: PgConnectOptions) -> PgConnectOptions {
    let host = connect.get_host();
    let is_local = connect.get_socket().is_some() || host.starts_with('/') || server_url::is_loopback(host);
    match connect.get_ssl_mode() {
        PgSslMode::Allow | PgSslMode::Prefer if !is_local => connect.ssl_mode(PgSslMode::Require),
        _ => connect,
    }
}

/// Returns how to open the connections of the pool. The version is the server's, as far as it is known.
pub(super) fn connect_options(options: &PostgresOptions, version: Option<u32>) -> Result<PgConnectOptions, OpenError> {
    let connect = read_url(&options.url)?;
    // No floats are read, and PgBouncer refuses the parameter.
    let connect = connect.application_name("keyward").extra_float_digits(None).disable_statement_logging();
    Ok(if options.pooler {
        // A prepared statement would stay on a server connection that the next call does not get. PgBouncer before 1.20
        // refuses `options`.
        connect.statement_cache_capacity(0)
    } else {
        connect.options(pinned::at_start(options.statement_timeout, version))
    })
}

/// Returns how to open the connection that migrates. It has no statement timeout: creating an index over many keys may
/// take minutes.
pub(super) fn migrate_options(options: &PostgresOptions, version: Option<u32>) -> Result<PgConnectOptions, OpenError> {
    let url = options.migrate_url.as_deref().unwrap_or(&options.url);
    let connect = read_url(url)?;
    Ok(connect.application_name("keyward").options(pinned::at_start(Duration::ZERO, version)))
}

/// Opens one connection outside the pool.
pub(super) async fn connect_once(connect: &PgConnectOptions, timeout: Duration) -> Result<PgConnection, OpenError> {
    let connected = tokio::time::timeout(timeout, async {
        let mut connection = connect.connect().await?;
        check_server(&mut connection).await?;
        Ok::<_, sqlx::Error>(connection)
    });
    match connected.await {
        Ok(connection) => Ok(connection?),
        Err(_) => Err(OpenError::Unavailable(Unavailability::timed_out())),
    }
}

/// Refuses a server on which Keyward cannot work:
///
/// - a standby: its state lags behind, so a revoked key may still be active there;
/// - a database with another encoding than UTF-8: it cannot hold every name;
/// - a role or database whose triggers are off: a revocation would get no revision, and no replica would apply it.
pub(super) async fn check_server(connection: &mut PgConnection) -> sqlx::Result<()> {
    const SERVER: &str = "SELECT pg_is_in_recovery(), current_setting('server_encoding'), \
         current_setting('session_replication_role')";
    // A simple query, so that it works through a pooler.
    let row = connection.fetch_one(sqlx::raw_sql(SERVER)).await?;
    if sqlx::Row::try_get_unchecked::<bool, _>(&row, 0)? {
        return Err(sqlx::Error::Io(std::io::Error::other("the server is a standby")));
    }
    let encoding: String = sqlx::Row::try_get_unchecked(&row, 1)?;
    if encoding != "UTF8" {
        return Err(sqlx::Error::Configuration(
            format!("the database has the encoding {encoding}; create it with ENCODING 'UTF8'").into(),
        ));
    }
    let role: String = sqlx::Row::try_get_unchecked(&row, 2)?;
    if role == "replica" {
        return Err(sqlx::Error::Configuration(
            "session_replication_role is replica, so that no trigger runs: reset it for the role and the database"
                .into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgSslMode;

    use super::read_url;

    #[test]
    fn a_server_elsewhere_must_have_tls_unless_the_url_disables_it() {
        for (url, requires) in [
            ("postgres://u:p@db.example/db", true),
            ("postgres://u:p@192.0.2.7/db?sslmode=prefer", true),
            ("postgres://u:p@[2001:db8::1]/db?sslmode=allow", true),
            ("postgres://u:p@localhost/db?host=db.example", true),
            ("postgres://u:p@db.example/db?sslmode=disable", false),
            ("postgres://u:p@127.0.0.1/db", false),
            ("postgres://u:p@[::1]/db", false),
            ("postgres://u:p@%2Fvar%2Frun%2Fpostgresql/db", false),
        ] {
            assert_eq!(matches!(read_url(url).unwrap().get_ssl_mode(), PgSslMode::Require), requires, "{url}");
        }
        let strict = read_url("postgres://u:p@db.example/db?sslmode=verify-full").unwrap();
        assert!(matches!(strict.get_ssl_mode(), PgSslMode::VerifyFull));
    }

    #[test]
    fn an_ipv6_host_is_its_address() {
        for url in ["postgres://u@[::1]:5432/db", "postgres://u@localhost/db?host=[::1]", "postgres://u@[::1]/db\n"] {
            assert_eq!(read_url(url).unwrap().get_host(), "::1", "{url}");
        }
        assert_eq!(read_url("postgres://u@db.example/db").unwrap().get_host(), "db.example");
    }
}
