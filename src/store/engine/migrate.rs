//! Migrations: the embedded files, how they are applied, and how many are pending.

use std::borrow::Cow;

use sqlx::{
    SqlSafeStr as _,
    migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator},
};

use crate::store::error::OpenError;

/// The table of applied migrations. It is not the driver's default: with a wrong `DATABASE_URL` that one could belong to
/// another application.
const TABLE: &str = "keyward_migrations";

/// The versions of the applied migrations, on both databases.
pub(crate) const APPLIED: &str = "SELECT version FROM keyward_migrations ORDER BY version";

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
pub(crate) use embedded::{POSTGRES, SQLITE};

/// Makes the migrator of one database. Version, description and checksum (SHA-384 of the file) are recorded in
/// [`TABLE`] and compared with the files at each start, so an applied migration must never be edited.
pub(crate) fn migrator(migrations: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migration = |&(version, description, sql): &(i64, &'static str, &'static str)| {
        Migration::new(version, Cow::Borrowed(description), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(migrations.iter().map(migration).collect());
    migrator.dangerous_set_table_name(Cow::Borrowed(TABLE));
    migrator
}

/// Applies the pending migrations on one connection.
pub(crate) async fn apply<C: Migrate>(migrator: &Migrator, conn: &mut C) -> Result<(), OpenError> {
    Ok(migrator.run_direct(None, conn, false).await?)
}

/// Counts the migrations of this program that are not among the applied ones.
pub(crate) fn pending(migrator: &Migrator, applied: &[i64]) -> Result<usize, OpenError> {
    match applied.iter().find(|version| !migrator.version_exists(**version)) {
        Some(newer) => Err(OpenError::NewerDatabase(*newer)),
        None => Ok(migrator.iter().filter(|migration| !applied.contains(&migration.version)).count()),
    }
}
