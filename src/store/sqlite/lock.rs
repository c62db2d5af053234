//! The database file and its lock.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use sqlx::sqlite::SqliteConnectOptions;

use crate::{domain::server_url, store::error::OpenError};

/// Creates the file if it is missing, readable by its owner alone because it holds digests. Locks a file beside it: a second
/// process could answer from memory for keys that this one has revoked.
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
    // Two names of one file must lead to one lock.
    let path = named.canonicalize().map_err(|error| refused(named, &error))?;
    let mut beside = path.clone().into_os_string();
    beside.push(".lock");
    let beside = PathBuf::from(beside);
    let lock = private(OpenOptions::new().write(true).create(true).truncate(false), &beside)
        .map_err(|error| refused(&beside, &error))?;
    match lock.try_lock() {
        Ok(()) => Ok((path, lock)),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.display().to_string())),
        Err(TryLockError::Error(error)) => Err(refused(&beside, &error)),
    }
}
