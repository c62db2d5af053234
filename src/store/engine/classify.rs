//! Classifies errors: the only code that reads the databases' error codes.

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

use crate::store::error::{OpenError, StoreError, Unavailability, UnavailableCause};

/// Why an attempt failed.
#[derive(Debug)]
pub enum AttemptError {
    /// An error of the driver or the database.
    Sql(sqlx::Error),
    /// No connection could be opened, or none on which work could begin.
    Unreachable(sqlx::Error),
    /// Refused by the store's own rules. The connection is sound.
    Store(StoreError),
    /// The deadline of the attempt passed.
    TimedOut,
}

/// The result of an attempt.
pub type AttemptResult<T> = Result<T, AttemptError>;

/// What can be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The connection is lost. The statement may have been executed or not.
    Lost,
    /// The transaction conflicted with another one and was rolled back. It can be retried.
    Conflict,
    /// The database cannot answer now.
    Unavailable,
    /// Another key has the digest.
    Collision,
    /// The content of one row cannot be written, or cannot be read.
    Row,
    /// Any other error. A retry would fail in the same way.
    Broken,
}

impl From<sqlx::Error> for AttemptError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for AttemptError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl AttemptError {
    /// Classifies the error.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Sql(error) => classify(error),
            // A later attempt may succeed whatever the reason, such as a changed password or a standby.
            Self::Unreachable(error) => match classify(error) {
                ErrorClass::Lost => ErrorClass::Lost,
                _ => ErrorClass::Unavailable,
            },
            Self::Store(StoreError::Unavailable(_)) | Self::TimedOut => ErrorClass::Unavailable,
            Self::Store(StoreError::DigestCollision) => ErrorClass::Collision,
            Self::Store(StoreError::Row(_)) => ErrorClass::Row,
            Self::Store(StoreError::Broken(_)) => ErrorClass::Broken,
        }
    }

    /// Whether other calls can use the connection afterwards.
    pub fn leaves_connection_sound(&self) -> bool {
        match self {
            Self::Store(_) => true,
            Self::TimedOut | Self::Unreachable(_) => false,
            Self::Sql(error) => {
                error.as_database_error().is_some()
                    && !matches!(self.class(), ErrorClass::Lost | ErrorClass::Unavailable)
            }
        }
    }
}

impl From<AttemptError> for StoreError {
    fn from(error: AttemptError) -> Self {
        let class = error.class();
        match error {
            AttemptError::Store(error) => error,
            AttemptError::TimedOut => Self::Unavailable(Unavailability::timed_out()),
            AttemptError::Sql(error) | AttemptError::Unreachable(error) => match class {
                ErrorClass::Collision => Self::DigestCollision,
                ErrorClass::Row => Self::Row(describe(&error)),
                ErrorClass::Broken => Self::Broken(describe(&error)),
                ErrorClass::Lost | ErrorClass::Conflict | ErrorClass::Unavailable => {
                    Self::Unavailable(unavailability(&error))
                }
            },
        }
    }
}

/// Describes why the database cannot answer.
pub(crate) fn unavailability(error: &sqlx::Error) -> Unavailability {
    Unavailability::new(cause(error), describe(error))
}

/// Describes an error by its message and code. A database's detail and hint are left out, because they quote values.
pub fn describe(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(database) => {
            let hint = if is_pooler_between(error) { ": set database.pooler if a pooler is between" } else { "" };
            format!("{} (code {}){hint}", database.message(), database.code().unwrap_or_default())
        }
        None => error.to_string(),
    }
}

/// Whether the server allows no more connections, of this role or at all. Poolers report this with messages of their
/// own.
pub(crate) fn is_full(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|database| {
        let message = database.message();
        database.code().as_deref() == Some("53300")
            || ["no more connections allowed", "max clients reached"].iter().any(|words| message.contains(words))
    })
}

/// Whether a prepared statement is missing or exists already: a transaction pooler gave the call another connection than
/// the one that prepared it.
fn is_pooler_between(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|database| matches!(database.code().as_deref(), Some("26000" | "42P05")))
}

/// Why the database cannot answer, according to an error.
fn cause(error: &sqlx::Error) -> UnavailableCause {
    if is_full(error) {
        return UnavailableCause::TooManyConnections;
    }
    if is_pooler_between(error) {
        return UnavailableCause::PoolerNotSet;
    }
    let Some(database) = error.as_database_error() else {
        return match error {
            sqlx::Error::PoolTimedOut => UnavailableCause::TimedOut,
            sqlx::Error::Io(error) => match error.kind() {
                std::io::ErrorKind::ResourceBusy => UnavailableCause::Locked,
                std::io::ErrorKind::ReadOnlyFilesystem => UnavailableCause::ReadOnly,
                std::io::ErrorKind::StorageFull => UnavailableCause::DiskFull,
                _ => UnavailableCause::Unreachable,
            },
            _ => UnavailableCause::Unreachable,
        };
    };
    let code = database.code().unwrap_or_default();
    if database.try_downcast_ref::<PgDatabaseError>().is_none() {
        return match sqlite_code(database) {
            Some(5 | 6) => UnavailableCause::Locked,
            Some(8) => UnavailableCause::ReadOnly,
            Some(13) => UnavailableCause::DiskFull,
            _ => UnavailableCause::Unreachable,
        };
    }
    match code.as_ref() {
        "25006" => UnavailableCause::ReadOnly,
        "53100" => UnavailableCause::DiskFull,
        "57014" | "55P03" => UnavailableCause::TimedOut,
        "42501" => UnavailableCause::Denied,
        code if code.starts_with("28") => UnavailableCause::Denied,
        _ => UnavailableCause::Unreachable,
    }
}

/// Whether the role lacks a right: insufficient_privilege of Postgres.
pub(crate) fn is_denied(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|database| database.code().as_deref() == Some("42501"))
}

/// The driver's message if the URL requires TLS and the server has none.
const NO_TLS: &str = "server does not support TLS";

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        if matches!(&error, sqlx::Error::Tls(why) if why.to_string() == NO_TLS) {
            return Self::Refused(
                "the server has no TLS, and another server that answers instead would get the password: turn TLS on there, or \
                 say sslmode=disable in the URL if the network itself is trusted"
                    .to_owned(),
            );
        }
        match classify(&error) {
            ErrorClass::Lost | ErrorClass::Conflict | ErrorClass::Unavailable => {
                Self::Unavailable(unavailability(&error))
            }
            ErrorClass::Collision | ErrorClass::Row | ErrorClass::Broken => Self::Refused(describe(&error)),
        }
    }
}

fn classify(error: &sqlx::Error) -> ErrorClass {
    match error {
        sqlx::Error::Database(database) => match database.try_downcast_ref::<PgDatabaseError>() {
            Some(postgres) => classify_postgres(postgres),
            None => classify_sqlite(database.as_ref()),
        },
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            ErrorClass::Lost
        }
        // A column of another type, or a NULL where none may be: other rows can be read.
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => ErrorClass::Row,
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => ErrorClass::Unavailable,
        _ => ErrorClass::Broken,
    }
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn classify_postgres(error: &PgDatabaseError) -> ErrorClass {
    match error.code() {
        // Shut down by an administrator, crashed, starting up, idle for too long, in a transaction or not.
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => ErrorClass::Lost,
        code if code.starts_with("08") => ErrorClass::Lost,
        // serialization_failure, deadlock_detected.
        "40001" | "40P01" => ErrorClass::Conflict,
        // A prepared statement is missing or already there: a transaction pooler is between, and the configuration does
        // not say so. Then query_canceled (the statement timeout), lock_not_available, read_only_sql_transaction (now a
        // standby).
        "26000" | "42P05" | "57014" | "55P03" | "25006" => ErrorClass::Unavailable,
        // Too many connections, no memory, disk full.
        code if code.starts_with("53") => ErrorClass::Unavailable,
        // unique_violation.
        "23505" if error.constraint() == Some("keyward_keys_digest") => ErrorClass::Collision,
        // The event of a change that was committed by an earlier attempt whose reply was lost. The retry will see it.
        "23505" if error.constraint() == Some("keyward_events_pkey") => ErrorClass::Conflict,
        // data_exception, integrity_constraint_violation, program_limit_exceeded.
        code if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => ErrorClass::Row,
        _ => ErrorClass::Broken,
    }
}

/// The primary code of an error of SQLite: the low byte.
pub(crate) fn sqlite_code(error: &dyn DatabaseError) -> Option<u32> {
    Some(error.code()?.parse::<u32>().ok()? & 0xff)
}

/// <https://www.sqlite.org/rescode.html>
fn classify_sqlite(error: &dyn DatabaseError) -> ErrorClass {
    match sqlite_code(error).unwrap_or(0) {
        // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN.
        5..=10 | 13 | 14 => ErrorClass::Unavailable,
        // CONSTRAINT.
        19 if error.is_unique_violation() && error.message().ends_with("keyward_keys.digest") => ErrorClass::Collision,
        // CONSTRAINT, TOOBIG, MISMATCH.
        18..=20 => ErrorClass::Row,
        _ => ErrorClass::Broken,
    }
}
