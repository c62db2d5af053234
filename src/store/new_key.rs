//! A key as it is first written.

use super::{Result, session::Value, verbs::to_json};
use crate::domain::key::KeyRecord;

/// A key as it is first written; its later parts keep the table's defaults.
pub struct NewKey<'a> {
    /// The key.
    pub key: &'a KeyRecord,
    /// Its scopes, as a JSON list.
    pub scopes: String,
    /// Its pairs, as a JSON object.
    pub metadata: String,
    /// The keyspaces that it is limited to, as a JSON list.
    pub keyspaces: String,
    /// How often it may be used, if that is its own.
    pub rate_limit: Option<i64>,
    /// The span that goes with it, in microseconds.
    pub rate_window: Option<i64>,
}

impl<'a> NewKey<'a> {
    /// Makes its lists JSON.
    pub fn of(key: &'a KeyRecord) -> Result<Self> {
        Ok(Self {
            key,
            scopes: to_json(&key.scopes)?,
            metadata: to_json(&key.metadata)?,
            keyspaces: to_json(&key.keyspaces)?,
            rate_limit: key.rate_limit.map(|own| i64::from(own.limit)),
            rate_window: key.rate_limit.map(|own| own.window),
        })
    }

    /// In the order of `new_columns!`.
    pub fn values(&self) -> [Value<'_>; 18] {
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
        ]
    }
}
