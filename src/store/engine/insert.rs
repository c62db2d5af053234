//! The row of a new key.

use serde::Serialize;

use super::connection::Value;
use crate::{
    domain::{egress::host_of, key::KeyRecord},
    store::error::{Result, StoreError},
};

/// The row of a new key. Columns that only later changes set keep the table's defaults.
pub struct NewKey<'a> {
    /// The key.
    pub key: &'a KeyRecord,
    /// Its scopes, as a JSON list.
    pub scopes: String,
    /// Its metadata, as a JSON object.
    pub metadata: String,
    /// The keyspaces that it is restricted to, as a JSON list.
    pub keyspaces: String,
    /// The host of its webhook.
    pub webhook_host: String,
    /// The limit of its own rate limit, if it has one.
    pub rate_limit: Option<i64>,
    /// The window of that rate limit, in microseconds.
    pub rate_window: Option<i64>,
}

impl<'a> NewKey<'a> {
    /// Encodes the lists and the metadata as JSON.
    pub fn of(key: &'a KeyRecord) -> Result<Self> {
        Ok(Self {
            key,
            scopes: to_json(&key.scopes)?,
            metadata: to_json(&key.metadata)?,
            keyspaces: to_json(&key.keyspaces)?,
            webhook_host: host_of(&key.webhook_url),
            rate_limit: key.rate_limit.map(|own| i64::from(own.limit)),
            rate_window: key.rate_limit.map(|own| own.window),
        })
    }

    /// The values in the order of `new_columns!`.
    pub fn values(&self) -> [Value<'_>; 19] {
        let key = self.key;
        [
            Value::Id(key.id.0),
            Value::Text(&key.keyspace),
            Value::Bytes(&key.digest.0),
            Value::Text(&key.prefix),
            Value::Text(&key.binding.organization),
            Value::Text(&key.binding.instance),
            Value::Text(&key.binding.environment),
            Value::Text(&key.name),
            Value::Text(&self.scopes),
            Value::Int(key.created_at),
            Value::MaybeInt(key.expires_at),
            Value::Text(&key.created_by),
            Value::Text(&key.webhook_url),
            Value::Int(key.webhook_version),
            Value::Text(&self.metadata),
            Value::MaybeInt(self.rate_limit),
            Value::MaybeInt(self.rate_window),
            Value::Text(&self.keyspaces),
            Value::Text(&self.webhook_host),
        ]
    }
}

/// Encodes a value as JSON.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| StoreError::Broken(format!("cannot be written as JSON: {error}")))
}
