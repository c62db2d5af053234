//! Loads the master keys before the first call.

use zeroize::Zeroizing;

use crate::{
    domain::{
        clock::Entropy,
        master_keys::{MasterKey, MasterKeys, fingerprint},
    },
    store::{InstallationRow, Store, StoreError},
};

/// Why the master keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The environment does not list the key that the database was last started with.
    #[error("KEYWARD_MASTER_KEY does not hold the key that this database was last started with")]
    OtherKey,
    /// The database was first started with a key from the environment, and there is none now.
    #[error("this database was first started with KEYWARD_MASTER_KEY; set it to the same key")]
    MissingKey,
    /// The key in the database cannot be decoded.
    #[error("the installation key in the database is damaged")]
    Damaged,
}

/// The master keys: those of the environment, or the one in the database, which the first start creates.
///
/// The database keeps the fingerprints of all keys that were ever first in the list. A start must list the last of them. A
/// start whose first key is new adds that key's fingerprint.
///
/// # Errors
///
/// Those of the store, and keys that do not match the database.
pub async fn load_master_keys(
    store: &dyn Store,
    entropy: &dyn Entropy,
    given: &[MasterKey],
) -> Result<MasterKeys, MasterKeyError> {
    let mut generated = Vec::new();
    if given.is_empty() {
        let mut key = MasterKey::new([0; 32]);
        entropy.fill(&mut key[..]);
        generated.push(key);
    }
    let proposed = given.first().unwrap_or_else(|| &generated[0]);
    let mut stored = store
        .installation(InstallationRow {
            fingerprint: fingerprint(proposed),
            key: given.is_empty().then(|| data_encoding::BASE64.encode(&proposed[..])),
            earlier: Vec::new(),
        })
        .await?;
    if given.is_empty() {
        let text = stored.key.as_deref().ok_or(MasterKeyError::MissingKey)?;
        generated = vec![decode(text).ok_or(MasterKeyError::Damaged)?];
    }
    let keys = if given.is_empty() { &generated } else { given };
    let Some((first, others)) = keys.split_first() else { return Err(MasterKeyError::Damaged) };
    loop {
        if !keys.iter().any(|key| fingerprint(key) == stored.fingerprint) {
            return Err(if given.is_empty() { MasterKeyError::Damaged } else { MasterKeyError::OtherKey });
        }
        let mut epochs = stored.earlier.clone();
        epochs.push(stored.fingerprint.clone());
        if epochs.contains(&fingerprint(first)) {
            return Ok(MasterKeys::new(first, others, &epochs));
        }
        // A key that the database held is now given by the environment: `key: None` removes it from the database.
        let next = InstallationRow { fingerprint: fingerprint(first), key: None, earlier: epochs };
        stored = store.move_installation(stored, next).await?;
        tracing::info!(fingerprint = stored.fingerprint, "the first master key is new: its fingerprint is stored");
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
