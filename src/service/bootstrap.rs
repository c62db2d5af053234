//! The installation keys, which are loaded before the first call.

use zeroize::Zeroizing;

use crate::{
    domain::{
        clock::Entropy,
        master_keys::{MasterKey, MasterKeys, fingerprint},
    },
    store::{InstallationRow, Store, StoreError},
};

/// Why the installation key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key that the database is at is not among the environment's.
    #[error("KEYWARD_MASTER_KEY does not hold the key that this database was last started with")]
    OtherKey,
    /// The database was first started with a key from the environment, and there is none now.
    #[error("this database was first started with KEYWARD_MASTER_KEY; set it to the same key")]
    MissingKey,
    /// The stored key cannot be read.
    #[error("the installation key in the database is damaged")]
    Damaged,
}

/// The installation keys: from the environment, or from the database, where the first start has made one.
///
/// The database keeps the fingerprints of the keys that have ever been first. A start must list the last of them, and
/// one whose first key is new moves the database on to it.
///
/// # Errors
///
/// The store's, or keys that do not fit the database.
pub async fn installation(
    store: &dyn Store,
    entropy: &dyn Entropy,
    given: &[MasterKey],
) -> Result<MasterKeys, InstallationError> {
    let mut made = Vec::new();
    if given.is_empty() {
        let mut key = MasterKey::new([0; 32]);
        entropy.fill(&mut key[..]);
        made.push(key);
    }
    let proposed = given.first().unwrap_or_else(|| &made[0]);
    let mut stored = store
        .installation(InstallationRow {
            fingerprint: fingerprint(proposed),
            key: given.is_empty().then(|| data_encoding::BASE64.encode(&proposed[..])),
            earlier: Vec::new(),
        })
        .await?;
    if given.is_empty() {
        let text = stored.key.as_deref().ok_or(InstallationError::MissingKey)?;
        made = vec![decode(text).ok_or(InstallationError::Damaged)?];
    }
    let keys = if given.is_empty() { &made } else { given };
    let Some((first, others)) = keys.split_first() else { return Err(InstallationError::Damaged) };
    loop {
        if !keys.iter().any(|key| fingerprint(key) == stored.fingerprint) {
            return Err(if given.is_empty() { InstallationError::Damaged } else { InstallationError::OtherKey });
        }
        let mut epochs = stored.earlier.clone();
        epochs.push(stored.fingerprint.clone());
        if epochs.contains(&fingerprint(first)) {
            return Ok(MasterKeys::new(first, others, &epochs));
        }
        // A key that the database kept is one of those given by now, and has no business there any more.
        let next = InstallationRow { fingerprint: fingerprint(first), key: None, earlier: epochs };
        stored = store.move_installation(stored, next).await?;
        tracing::info!(fingerprint = stored.fingerprint, "the database has moved on to another installation key");
    }
}

fn decode(text: &str) -> Option<MasterKey> {
    let bytes = Zeroizing::new(data_encoding::BASE64.decode(text.as_bytes()).ok()?);
    let mut key = MasterKey::new([0; 32]);
    (bytes.len() == key.len()).then(|| {
        key.copy_from_slice(&bytes);
        key
    })
}
