//! What a failed statement means: the one place that reads the databases' error codes.

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

use super::StoreError;

/// Why an attempt gave nothing.
#[derive(Debug)]
pub enum Failure {
    /// The driver or the database said so.
    Sql(sqlx::Error),
    /// There is no connection, or none that takes work.
    Unreachable(sqlx::Error),
    /// The rules of the store said so; the connection is fine.
    Store(StoreError),
    /// No answer within the bound.
    TimedOut,
}

/// The result of an attempt.
pub type Outcome<T> = Result<T, Failure>;

/// What can be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The connection is gone; what was sent may have happened or not.
    Lost,
    /// Two transactions crossed; this one was rolled back and may be tried again.
    Conflict,
    /// The database cannot answer now.
    Unavailable,
    /// A digest that is there already.
    Collision,
    /// What one row holds cannot be written, or not be read.
    Row,
    /// Anything else: trying again gives the same.
    Broken,
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    /// What can be done.
    pub fn class(&self) -> Class {
        match self {
            Self::Sql(error) => classify(error),
            // Whatever the reason, such as a password that was changed or a standby: it may be better the next time.
            Self::Unreachable(error) => match classify(error) {
                Class::Lost => Class::Lost,
                _ => Class::Unavailable,
            },
            Self::Store(StoreError::Unavailable(_)) | Self::TimedOut => Class::Unavailable,
            Self::Store(StoreError::DigestCollision) => Class::Collision,
            Self::Store(StoreError::Row(_)) => Class::Row,
            Self::Store(StoreError::Broken(_)) => Class::Broken,
        }
    }

    /// Whether the connection can go on to serve other calls.
    pub fn leaves_connection_sound(&self) -> bool {
        match self {
            Self::Store(_) => true,
            Self::TimedOut | Self::Unreachable(_) => false,
            Self::Sql(error) => {
                error.as_database_error().is_some() && !matches!(self.class(), Class::Lost | Class::Unavailable)
            }
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        let class = failure.class();
        match failure {
            Failure::Store(error) => error,
            Failure::TimedOut => Self::Unavailable("no answer within the bound".to_owned()),
            Failure::Sql(error) | Failure::Unreachable(error) => match class {
                Class::Collision => Self::DigestCollision,
                Class::Row => Self::Row(describe(&error)),
                Class::Broken => Self::Broken(describe(&error)),
                Class::Lost | Class::Conflict | Class::Unavailable => Self::Unavailable(describe(&error)),
            },
        }
    }
}

/// The message and the code. A database's detail and hint are left out: they quote values.
pub fn describe(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(database) => format!("{} (code {})", database.message(), database.code().unwrap_or_default()),
        None => error.to_string(),
    }
}

fn classify(error: &sqlx::Error) -> Class {
    match error {
        sqlx::Error::Database(database) => match database.try_downcast_ref::<PgDatabaseError>() {
            Some(postgres) => classify_postgres(postgres),
            None => classify_sqlite(database.as_ref()),
        },
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => Class::Lost,
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Class::Unavailable,
        _ => Class::Broken,
    }
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn classify_postgres(error: &PgDatabaseError) -> Class {
    match error.code() {
        // Shut down by an administrator, crashed, starting up, idle for too long, in a transaction or not.
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => Class::Lost,
        code if code.starts_with("08") => Class::Lost,
        // serialization_failure, deadlock_detected.
        "40001" | "40P01" => Class::Conflict,
        // query_canceled (the statement timeout), lock_not_available, read_only_sql_transaction (now a standby).
        "57014" | "55P03" | "25006" => Class::Unavailable,
        // Too many connections, no memory, disk full.
        code if code.starts_with("53") => Class::Unavailable,
        // unique_violation.
        "23505" if error.constraint() == Some("keyward_keys_digest") => Class::Collision,
        // The event of a change that was made before, and whose reply was lost: now it shows.
        "23505" if error.constraint() == Some("keyward_events_pkey") => Class::Conflict,
        // data_exception, integrity_constraint_violation, program_limit_exceeded.
        code if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => Class::Row,
        _ => Class::Broken,
    }
}

/// <https://www.sqlite.org/rescode.html>
fn classify_sqlite(error: &dyn DatabaseError) -> Class {
    let code: u32 = error.code().and_then(|code| code.parse().ok()).unwrap_or(0);
    // The low byte is the primary code.
    match code & 0xff {
        // BUSY, LOCKED, NOMEM, INTERRUPT, IOERR, FULL, CANTOPEN.
        5 | 6 | 7 | 9 | 10 | 13 | 14 => Class::Unavailable,
        // CONSTRAINT.
        19 if error.is_unique_violation() && error.message().ends_with("keyward_keys.digest") => Class::Collision,
        // CONSTRAINT, TOOBIG, MISMATCH.
        18..=20 => Class::Row,
        _ => Class::Broken,
    }
}
