//! Commands that end by themselves.

use super::{error::RunError, memory, open_store::open_with_retry, parts::Parts, progress::StartProgress, system_user};
use crate::{
    config::Config,
    domain::secret::Secret,
    transport::tls::{Tls, exposed_key},
};

/// `keyward config check`, after the settings themselves were checked: whether the files that they name can be used.
///
/// # Errors
///
/// Every problem.
pub fn check(config: &Config) -> Result<(), Vec<String>> {
    config.tls.as_ref().map_or(Ok(()), |tls| Tls::load(tls, &config.registry).map(|_| ()))
}

/// Files that hold secrets and that more users may read than need to.
pub fn file_warnings(config: &Config) -> Vec<String> {
    let exposed = config.tls.as_ref().and_then(exposed_key);
    exposed
        .map(|path| format!("tls.key: every user of this machine may read {}: chmod o= it", path.display()))
        .into_iter()
        .collect()
}

/// `keyward migrate`: applies pending migrations.
///
/// # Errors
///
/// The reason why they could not be applied.
pub async fn migrate(config: &Config) -> Result<(), RunError> {
    memory::protect_unless(config.server.dumpable);
    let progress = StartProgress::default();
    let opened = open_with_retry(config, &progress).await?;
    opened.migrate(&progress).await?;
    opened.store.close().await;
    Ok(())
}

/// `keyward root-key`: creates a root key in the database itself, for an operator who has lost the last one.
///
/// # Errors
///
/// The reason why it could not be created.
pub async fn root_key(config: &Config) -> Result<Secret, RunError> {
    memory::protect_unless(config.server.dumpable);
    let progress = StartProgress::default();
    let opened = open_with_retry(config, &progress).await?;
    opened.migrate(&progress).await?;
    let parts = Parts::build(config, &opened).await?;
    let secret = parts.services.keys.create_root_key(&system_user::name()).await?;
    parts.store.close().await;
    Ok(secret)
}
