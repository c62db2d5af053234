//! Root keys, which are created outside of any call.

use std::collections::BTreeMap;

use super::Keys;
use crate::{
    domain::{
        key::{Binding, KeyRecord},
        keyspace::{Keyspace, RESERVED_KEYSPACE, ROOT_SCOPE},
        secret::{self, DISPLAY_PREFIX_LEN, Secret},
    },
    store::StoreError,
};

impl Keys {
    /// Creates the first root key, if this database never had one and holds no key. Returns its secret, which is stored
    /// nowhere.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn create_first_root_key(&self) -> Result<Option<Secret>, StoreError> {
        let (secret, record) = self.new_root_key("root".to_owned());
        Ok(self.store.first_root_key(record).await?.then_some(secret))
    }

    /// Creates a root key, whatever keys there are already. `user` is the user of the operating system who runs the
    /// command.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn create_root_key(&self, user: &str) -> Result<Secret, StoreError> {
        let (secret, record) = self.new_root_key(format!("system:{user}"));
        self.store.create_key(record).await?;
        Ok(secret)
    }

    fn new_root_key(&self, created_by: String) -> (Secret, KeyRecord) {
        let reserved = Keyspace::reserved();
        let prefix = reserved.prefixes.for_environment("").unwrap_or_default();
        let secret = reserved.encoding.generate(prefix, &self.master_keys, &*self.entropy);
        let (id, created_at) = self.ids.key_id();
        let record = KeyRecord {
            id,
            keyspace: RESERVED_KEYSPACE.to_owned(),
            digest: secret::digest(secret.expose()),
            prefix: secret.expose().chars().take(DISPLAY_PREFIX_LEN).collect(),
            binding: Binding::default(),
            name: "root".to_owned(),
            scopes: vec![ROOT_SCOPE.to_owned()],
            created_at,
            expires_at: None,
            revoked_at: None,
            revoke_reason: String::new(),
            created_by,
            revoked_by: String::new(),
            webhook_url: String::new(),
            webhook_version: 0,
            metadata: BTreeMap::new(),
            rate_limit: None,
            keyspaces: Vec::new(),
            revision: 0,
            last_used_at: None,
        };
        (secret, record)
    }
}
