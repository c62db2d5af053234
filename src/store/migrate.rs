//! Migrations: which there are, how they are applied, and whether all of them were.

use std::borrow::Cow;

use sqlx::{
    SqlSafeStr as _,
    migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator},
};

use super::{
    StoreError,
    failure::{Class, Failure, describe},
};

/// Where applied migrations are noted. Not the driver's own name: a stray `DATABASE_URL` must not mix into another
/// application's migrations.
pub(super) const TABLE: &str = "keyward_migrations";

/// The versions that were applied, on both databases.
pub(super) const APPLIED: &str = "SELECT version FROM keyward_migrations ORDER BY version";

/// Why a database could not be opened or migrated.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// The URL is not one that this backend understands.
    #[error("database.url: {0}")]
    Url(String),
    /// Another process has the file.
    #[error("database {0} is in use by another keyward process")]
    InUse(String),
    /// The database is away; it may come back.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// The database refused, and will again.
    #[error("database error: {0}")]
    Refused(String),
    /// Another version of the program has been here.
    #[error("the database has migration {0}, which this program does not know: it was migrated by a newer keyward")]
    NewerDatabase(i64),
    /// The migrations cannot be applied through a pooler.
    #[error("migrations are pending, and cannot be applied through a connection pooler: give a direct migration URL")]
    NeedsDirectUrl,
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        let text = describe(&error);
        match Failure::Sql(error).class() {
            Class::Lost | Class::Conflict | Class::Unavailable => Self::Unavailable(text),
            Class::Collision | Class::Row | Class::Broken => Self::Refused(text),
        }
    }
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

impl From<MigrateError> for OpenError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMissing(version) => Self::NewerDatabase(version),
            MigrateError::Execute(error) => error.into(),
            MigrateError::ExecuteMigration(error, version) => match Self::from(error) {
                Self::Refused(text) => Self::Refused(format!("migration {version}: {text}")),
                other => other,
            },
            other => Self::Refused(other.to_string()),
        }
    }
}

/// The migrations of both databases, as `build.rs` embeds them.
mod embedded {
    include!(concat!(env!("OUT_DIR"), "/migrations.rs"));
}
pub(super) use embedded::{POSTGRES, SQLITE};

/// Makes the migrator of one database. Version, description and checksum (SHA-384 of the file) are recorded in
/// [`TABLE`] and compared with the files at each start, so an applied migration must never be edited.
pub(super) fn migrator(migrations: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migration = |&(version, description, sql): &(i64, &'static str, &'static str)| {
        Migration::new(version, Cow::Borrowed(description), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(migrations.iter().map(migration).collect());
    migrator.dangerous_set_table_name(Cow::Borrowed(TABLE));
    migrator
}

/// Applies what is pending on one connection.
pub(super) async fn apply<C: Migrate>(migrator: &Migrator, conn: &mut C) -> Result<(), OpenError> {
    Ok(migrator.run_direct(None, conn, false).await?)
}

/// How many of the program's migrations are not among those applied.
pub(super) fn pending(migrator: &Migrator, applied: &[i64]) -> Result<usize, OpenError> {
    match applied.iter().find(|version| !migrator.version_exists(**version)) {
        Some(newer) => Err(OpenError::NewerDatabase(*newer)),
        None => Ok(migrator.iter().filter(|migration| !applied.contains(&migration.version)).count()),
    }
}
