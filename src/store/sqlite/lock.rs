//! The database file and its lock.

use std::{
    fs::{File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use sqlx::sqlite::SqliteConnectOptions;

use crate::{domain::server_url, store::error::OpenError};

/// Creates the file if it is missing, readable by its owner alone because it holds digests. Locks another file of its
/// folder: a second process could answer from memory for keys that this one has revoked.
pub(super) fn create_and_lock(url: &str) -> Result<(PathBuf, File), OpenError> {
    let refused_url = |reason: &str| OpenError::Url(format!("{reason}: must be such as sqlite://keyward.db"));
    let path = server_url::sqlite(url).ok_or_else(|| refused_url("not a SQLite URL"))?.map_err(OpenError::Url)?;
    let parsed: SqliteConnectOptions =
        format!("sqlite://{path}").parse().map_err(|error: sqlx::Error| refused_url(&error.to_string()))?;
    let named = parsed.get_filename();
    let refused = |path: &Path, error: &io::Error| OpenError::Refused(format!("{}: {error}", path.display()));
    let private = |options: &mut OpenOptions, path: &Path| options.mode(0o600).open(path);
    match private(OpenOptions::new().write(true).create_new(true), named) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(refused(named, &error)),
        _ => {}
    }
    // Two names of one file must use the same lock.
    let path = named.canonicalize().map_err(|error| refused(named, &error))?;
    for suffix in ["", "-wal", "-shm"] {
        restrict(&with_suffix(&path, suffix));
    }
    let lock_path = with_suffix(&path, ".lock");
    let lock = private(OpenOptions::new().write(true).create(true).truncate(false), &lock_path)
        .map_err(|error| refused(&lock_path, &error))?;
    match lock.try_lock() {
        Ok(()) => Ok((path, lock)),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.display().to_string())),
        Err(TryLockError::Error(error)) => Err(refused(&lock_path, &error)),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

/// Restricts a file that every user can open to its owner. A file that only its group can open is left unchanged,
/// because this may be intended for backups. SQLite makes its -wal and -shm files with the same permissions.
fn restrict(path: &Path) {
    let Ok(metadata) = path.metadata() else { return };
    let others = metadata.permissions().mode() & 0o007;
    if others == 0 {
        return;
    }
    match std::fs::set_permissions(path, Permissions::from_mode(0o600)) {
        Ok(()) => tracing::warn!(file = %path.display(), "other users could read the database: its mode is 0600 now"),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "other users can read the database: set its mode to 0600");
        }
    }
}
