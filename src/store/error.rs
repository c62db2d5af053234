//! The errors of the store.

use crate::domain::error::Error;

/// Why a store call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database is unavailable or did not answer in time. A write may have happened or not.
    #[error("database unavailable: {0}")]
    Unavailable(String),
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
    Unavailable(String),
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
            StoreError::Unavailable(text) => Self::Unavailable(text),
            StoreError::DigestCollision | StoreError::Row(_) | StoreError::Broken(_) => {
                Self::Refused(error.to_string())
            }
        }
    }
}
