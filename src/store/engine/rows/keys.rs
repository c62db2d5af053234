//! The rows of keys.

use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::from_row::from_row;
use crate::{
    domain::{
        key::{Binding, Digest, KeyFacts, KeyId, KeyRecord},
        rate_limit::RateLimit,
    },
    store::error::StoreError,
};

/// A row of `key_with_usage!`.
pub struct KeyRow {
    pub(crate) id: Uuid,
    pub(crate) keyspace: String,
    pub(crate) digest: Vec<u8>,
    pub(crate) prefix: String,
    pub(crate) organization: String,
    pub(crate) instance: String,
    pub(crate) environment: String,
    pub(crate) name: String,
    pub(crate) scopes: String,
    pub(crate) created_at: i64,
    pub(crate) expires_at: Option<i64>,
    pub(crate) revoked_at: Option<i64>,
    pub(crate) revoke_reason: String,
    pub(crate) created_by: String,
    pub(crate) revoked_by: String,
    pub(crate) webhook_url: String,
    pub(crate) webhook_version: i64,
    pub(crate) metadata: String,
    pub(crate) revision: i64,
    pub(crate) rate_limit: Option<i64>,
    pub(crate) rate_window: Option<i64>,
    pub(crate) keyspaces: String,
    pub(crate) last_used_at: Option<i64>,
}

from_row!(KeyRow {
    id,
    keyspace,
    digest,
    prefix,
    organization,
    instance,
    environment,
    name,
    scopes,
    created_at,
    expires_at,
    revoked_at,
    revoke_reason,
    created_by,
    revoked_by,
    webhook_url,
    webhook_version,
    metadata,
    revision,
    rate_limit,
    rate_window,
    keyspaces,
    last_used_at
});

impl TryFrom<KeyRow> for KeyRecord {
    type Error = StoreError;

    fn try_from(row: KeyRow) -> Result<Self, StoreError> {
        let id = KeyId(row.id);
        let read = ColumnReader { id };
        let digest = read.digest(row.digest)?;
        let scopes = read.json("scopes", &row.scopes)?;
        let metadata = read.json("metadata", &row.metadata)?;
        let rate_limit = read.rate_limit(row.rate_limit, row.rate_window)?;
        // An unreadable restriction must not count as none: that would give the service access to all keyspaces.
        let keyspaces = read.json("keyspaces", &row.keyspaces)?;
        Ok(Self {
            id,
            keyspace: row.keyspace,
            digest,
            prefix: row.prefix,
            binding: Binding { organization: row.organization, instance: row.instance, environment: row.environment },
            name: row.name,
            scopes,
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            revoke_reason: row.revoke_reason,
            created_by: row.created_by,
            revoked_by: row.revoked_by,
            webhook_url: row.webhook_url,
            webhook_version: row.webhook_version,
            metadata,
            rate_limit,
            keyspaces,
            revision: row.revision,
            last_used_at: row.last_used_at,
        })
    }
}

/// A row of `fact_columns!`. It is read by position, which is faster than by name, because each look-up of a Verify
/// does it.
pub(crate) type FactsRow = (
    Uuid,
    String,
    Vec<u8>,
    String,
    String,
    String,
    String,
    String,
    i64,
    Option<i64>,
    Option<i64>,
    String,
    Option<i64>,
    Option<i64>,
    String,
);

/// Converts a row of `fact_columns!`.
pub(crate) fn read_facts(row: FactsRow) -> Result<KeyFacts, StoreError> {
    let (id, keyspace, digest, organization, instance, environment, name, scopes, created_at, ..) = row;
    let (.., expires_at, revoked_at, metadata, limit, window, keyspaces) = row;
    let read = ColumnReader { id: KeyId(id) };
    Ok(KeyFacts {
        id: read.id,
        keyspace,
        digest: read.digest(digest)?,
        binding: Binding { organization, instance, environment },
        name,
        scopes: read.json("scopes", &scopes)?,
        created_at,
        expires_at,
        revoked: revoked_at.is_some(),
        metadata: read.json("metadata", &metadata)?,
        rate_limit: read.rate_limit(limit, window)?,
        keyspaces: read.json("keyspaces", &keyspaces)?,
    })
}

/// Decodes the columns of one key. An error names the column but not its content, which may be anything.
struct ColumnReader {
    id: KeyId,
}

impl ColumnReader {
    fn unreadable(&self, column: &str) -> StoreError {
        StoreError::Row(format!("the {column} of {} cannot be read", self.id))
    }

    fn digest(&self, bytes: Vec<u8>) -> Result<Digest, StoreError> {
        bytes.try_into().map(Digest).map_err(|_| self.unreadable("digest"))
    }

    /// Decodes JSON. Most lists and objects are empty, so these are not parsed.
    fn json<T: DeserializeOwned + Default>(&self, column: &str, text: &str) -> Result<T, StoreError> {
        match text {
            "[]" | "{}" => Ok(T::default()),
            _ => serde_json::from_str(text).map_err(|_| self.unreadable(column)),
        }
    }

    fn rate_limit(&self, limit: Option<i64>, window: Option<i64>) -> Result<Option<RateLimit>, StoreError> {
        if limit.is_none() && window.is_none() {
            return Ok(None);
        }
        let limit = limit.and_then(|limit| u32::try_from(limit).ok());
        let read = limit.zip(window).map(|(limit, window)| RateLimit { limit, window });
        // The limiter calculates with the limit on each check and relies on its bounds.
        let valid = read.filter(|read| read.has_valid_limit() && read.has_valid_window());
        valid.map(Some).ok_or_else(|| self.unreadable("rate limit"))
    }
}
