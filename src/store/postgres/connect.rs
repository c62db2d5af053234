//! How connections to Postgres are opened, and which servers are refused.

use std::time::Duration;

use sqlx::{ConnectOptions as _, Executor as _, PgConnection, postgres::PgConnectOptions};

use super::options::PostgresOptions;
use crate::store::error::OpenError;

pub(super) fn invalid_url(error: sqlx::Error) -> OpenError {
    match error {
        sqlx::Error::Configuration(reason) => OpenError::Url(reason.to_string()),
        other => OpenError::Url(other.to_string()),
    }
}

/// Returns how to open the connections of the pool.
pub(super) fn connect_options(options: &PostgresOptions) -> Result<PgConnectOptions, OpenError> {
    let connect: PgConnectOptions = options.url.parse().map_err(invalid_url)?;
    // No floats are read, and PgBouncer refuses the parameter.
    let connect = connect.application_name("keyward").extra_float_digits(None).disable_statement_logging();
    Ok(if options.pooler {
        // A prepared statement would stay on a server connection that the next call does not get. PgBouncer before 1.20
        // refuses `options`.
        connect.statement_cache_capacity(0)
    } else {
        connect.options([
            ("statement_timeout", options.statement_timeout.as_millis().to_string().as_str()),
            // The database may have another default, under which concurrent changes would conflict and be retried.
            ("default_transaction_isolation", "read committed"),
        ])
    })
}

/// Opens one connection outside the pool.
pub(super) async fn connect_once(connect: &PgConnectOptions, timeout: Duration) -> Result<PgConnection, OpenError> {
    let connected = tokio::time::timeout(timeout, async {
        let mut connection = connect.connect().await?;
        refuse_standby(&mut connection).await?;
        Ok::<_, sqlx::Error>(connection)
    });
    match connected.await {
        Ok(connection) => Ok(connection?),
        Err(_) => Err(OpenError::Unavailable("no answer within the bound".to_owned())),
    }
}

/// Refuses a standby: it reads the past, where a revoked key may still be active.
pub(super) async fn refuse_standby(connection: &mut PgConnection) -> sqlx::Result<()> {
    // A simple query, so that it works through a pooler.
    let row = connection.fetch_one(sqlx::raw_sql("SELECT pg_is_in_recovery()")).await?;
    if sqlx::Row::try_get_unchecked::<bool, _>(&row, 0)? {
        return Err(sqlx::Error::Io(std::io::Error::other("the server is a standby")));
    }
    Ok(())
}
