//! The errors of the store.

use crate::domain::error::Error;

/// Why a store call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database is unavailable or did not answer in time. A write may have happened or not.
    #[error("database unavailable: {0}")]
    Unavailable(Unavailability),
    /// Another key has this digest.
    #[error("digest collision")]
    DigestCollision,
    /// The database refused the content of one row, or this program cannot read it.
    #[error("database error in one row: {0}")]
    Row(String),
    /// Any other error of the database. A retry would fail in the same way.
    #[error("database error: {0}")]
    Broken(String),
}

/// Why the database cannot answer now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailability {
    /// The kind of the reason, which is public.
    pub cause: UnavailableCause,
    /// The message of the database or its driver, for the log.
    detail: String,
}

/// The kind of reason for which the database cannot answer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnavailableCause {
    /// It cannot be reached.
    Unreachable,
    /// It does not answer in time.
    TimedOut,
    /// It allows no more connections.
    TooManyConnections,
    /// It does not accept the role, its password or its rights.
    Denied,
    /// It accepts no writes.
    ReadOnly,
    /// Its disk is full.
    DiskFull,
    /// Another process holds its lock.
    Locked,
    /// A transaction pooler is between, and `database.pooler` is not set.
    PoolerNotSet,
}

impl UnavailableCause {
    /// Whether reads may succeed all the same.
    pub const fn concerns_writes_only(self) -> bool {
        matches!(self, Self::ReadOnly | Self::DiskFull | Self::Locked)
    }

    /// A public sentence. It contains no text of the database or its driver.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Unreachable => "The database cannot be reached",
            Self::TimedOut => "The database does not answer in time",
            Self::TooManyConnections => "The database allows no more sessions",
            Self::Denied => "The database denies access",
            Self::ReadOnly => "The database takes no writes",
            Self::DiskFull => "The disk of the database is full",
            Self::Locked => "Another process holds the lock of the database",
            Self::PoolerNotSet => "The database is behind a transaction pooler: set database.pooler",
        }
    }
}

impl Unavailability {
    /// A reason with its detail.
    pub(crate) fn new(cause: UnavailableCause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into() }
    }

    /// No answer came in time.
    pub(crate) fn timed_out() -> Self {
        Self::new(UnavailableCause::TimedOut, "no answer within the bound")
    }
}

impl From<&str> for Unavailability {
    fn from(detail: &str) -> Self {
        Self::new(UnavailableCause::Unreachable, detail)
    }
}

impl std::fmt::Display for Unavailability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

/// The result of a store call.
pub type Result<T> = std::result::Result<T, StoreError>;

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::unavailable(error.to_string()),
            StoreError::DigestCollision | StoreError::Row(_) | StoreError::Broken(_) => {
                Self::internal(error.to_string())
            }
        }
    }
}

/// Why a database could not be opened or migrated.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// This backend does not understand the URL.
    #[error("database.url: {0}")]
    Url(String),
    /// Another process has the file open.
    #[error("database {0} is in use by another keyward process")]
    InUse(String),
    /// The database is unavailable. A retry may succeed.
    #[error("database unavailable: {0}")]
    Unavailable(Unavailability),
    /// The database refused. A retry would fail in the same way.
    #[error("database error: {0}")]
    Refused(String),
    /// A newer version of this program migrated the database.
    #[error("the database has migration {0}, which this program does not know: it was migrated by a newer keyward")]
    NewerDatabase(i64),
    /// Migrations cannot be applied through a transaction pooler.
    #[error("migrations are pending, and cannot be applied through a connection pooler: give a direct migration URL")]
    NeedsDirectUrl,
    /// Migrations are pending, and the role has no right to apply them.
    #[error(
        "migrations are pending, and the database role may not apply them: run `keyward migrate` as the owner of the \
         tables, or set database.migrate_url ({0})"
    )]
    MayNotMigrate(String),
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(why) => Self::Unavailable(why),
            StoreError::DigestCollision | StoreError::Row(_) | StoreError::Broken(_) => {
                Self::Refused(error.to_string())
            }
        }
    }
}
