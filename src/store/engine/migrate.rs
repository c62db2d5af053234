//! Migrations: the embedded files, how they are applied, and how many are pending.

use std::borrow::Cow;

use sqlx::{
    SqlSafeStr as _,
    migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator},
};

use super::classify::{describe, is_denied};
use crate::store::error::OpenError;

/// The table of applied migrations. It is not the driver's default: with a wrong `DATABASE_URL` that one could belong to
/// another application.
const TABLE: &str = "keyward_migrations";

/// The applied migrations, on both databases.
pub(crate) const APPLIED: &str = "SELECT version, success, checksum FROM keyward_migrations ORDER BY version";

/// A row of [`APPLIED`]: version, success, checksum.
pub(crate) type AppliedRow = (i64, bool, Vec<u8>);

impl From<MigrateError> for OpenError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMissing(version) => Self::NewerDatabase(version),
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) if is_denied(&error) => {
                Self::MayNotMigrate(describe(&error))
            }
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

/// Counts the migrations of this program that are not among the applied ones. It refuses the same databases as [`apply`],
/// but takes no lock and creates nothing, so that a role without such rights can find that nothing is pending.
pub(crate) fn pending(migrator: &Migrator, applied: &[AppliedRow]) -> Result<usize, OpenError> {
    for (version, success, checksum) in applied {
        if !success {
            return Err(MigrateError::Dirty(*version).into());
        }
        match migrator.iter().find(|migration| migration.version == *version) {
            None => return Err(OpenError::NewerDatabase(*version)),
            Some(known) if *known.checksum != **checksum => return Err(MigrateError::VersionMismatch(*version).into()),
            Some(_) => {}
        }
    }
    let is_applied = |version| applied.iter().any(|(applied, ..)| *applied == version);
    Ok(migrator.iter().filter(|migration| !is_applied(migration.version)).count())
}
