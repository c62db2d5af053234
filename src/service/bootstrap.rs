//! What happens before the first call: the installation key and the first root key.

use zeroize::Zeroizing;

use super::{Service, keys::root_key};
use crate::{
    domain::{
        clock::Entropy,
        installation::{Installation, MasterKey},
        keyspace::Keyspace,
        secret::Secret,
    },
    store::{InstallationRow, Store, StoreError},
};

/// Why the installation key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The environment's key is another one than the database was first started with.
    #[error("KEYWARD_MASTER_KEY is not the key that this database was first started with")]
    OtherKey,
    /// The database was first started with a key from the environment, and there is none now.
    #[error("this database was first started with KEYWARD_MASTER_KEY; set it to the same key")]
    MissingKey,
    /// The stored key cannot be read.
    #[error("the installation key in the database is damaged")]
    Damaged,
}

/// The installation key: from the environment, or from the database, where the first start has made it.
///
/// # Errors
///
/// The store's, or a key that does not fit the database.
pub async fn installation(
    store: &dyn Store,
    entropy: &dyn Entropy,
    given: Option<&MasterKey>,
) -> Result<Installation, InstallationError> {
    let proposed = given.cloned().unwrap_or_else(|| {
        let mut made = MasterKey::new([0; 32]);
        entropy.fill(&mut made[..]);
        made
    });
    let row = InstallationRow {
        fingerprint: Installation::derive(&proposed).fingerprint().to_owned(),
        key: given.is_none().then(|| data_encoding::BASE64.encode(&proposed[..])),
    };
    let stored = store.installation(row).await?;
    let key = match (given, stored.key) {
        (Some(given), _) => given.clone(),
        (None, Some(text)) => decode(&text).ok_or(InstallationError::Damaged)?,
        (None, None) => return Err(InstallationError::MissingKey),
    };
    let installation = Installation::derive(&key);
    if installation.fingerprint() != stored.fingerprint {
        return Err(if given.is_some() { InstallationError::OtherKey } else { InstallationError::Damaged });
    }
    Ok(installation)
}

fn decode(text: &str) -> Option<MasterKey> {
    let bytes = Zeroizing::new(data_encoding::BASE64.decode(text.as_bytes()).ok()?);
    let mut key = MasterKey::new([0; 32]);
    (bytes.len() == key.len()).then(|| {
        key.copy_from_slice(&bytes);
        key
    })
}

impl Service {
    /// Makes the first root key if this database never had one and holds no key; answers it, this once.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn first_root_key(&self) -> Result<Option<Secret>, StoreError> {
        let (secret, record) = self.new_root_key();
        Ok(self.store.first_root_key(record).await?.then_some(secret))
    }

    /// Makes a root key whatever there is already.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn another_root_key(&self) -> Result<Secret, StoreError> {
        let (secret, record) = self.new_root_key();
        self.store.create_key(record).await?;
        Ok(secret)
    }

    fn new_root_key(&self) -> (Secret, crate::domain::key::KeyRecord) {
        let reserved = Keyspace::reserved();
        let prefix = reserved.prefixes.of("").unwrap_or_default();
        let secret = reserved.encoding.generate(prefix, &self.installation, &*self.entropy);
        let record = root_key(&secret, self.ids.next(&*self.clock, &*self.entropy), self.now());
        (secret, record)
    }
}
