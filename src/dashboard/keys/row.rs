//! A key as a list shows it.

use crate::{
    dashboard::text::{self, Moment},
    domain::{
        clock::Micros,
        key::{KeyRecord, KeyStatus},
    },
};

/// A key in a table.
pub(in crate::dashboard) struct KeyRow {
    pub(in crate::dashboard) id: String,
    pub(in crate::dashboard) name: String,
    pub(in crate::dashboard) prefix: String,
    pub(in crate::dashboard) scopes: Vec<String>,
    pub(in crate::dashboard) status: &'static str,
    /// Whether it can still be revoked.
    pub(in crate::dashboard) is_live: bool,
    pub(in crate::dashboard) last_used: Option<Moment>,
    pub(in crate::dashboard) expires: Option<Moment>,
    pub(in crate::dashboard) created: Moment,
    pub(in crate::dashboard) created_by: String,
    /// Keyspace, organization, instance and environment, where they are not empty or implied.
    pub(in crate::dashboard) binding: Vec<String>,
}

impl KeyRow {
    pub(in crate::dashboard) fn new(key: &KeyRecord, now: Micros, keyspaces: usize) -> Self {
        let own = &key.binding;
        let keyspace = if keyspaces > 1 { key.keyspace.as_str() } else { "" };
        let binding = [keyspace, &own.organization, &own.instance, &own.environment];
        let status = key.status(now);
        Self {
            id: key.id.to_string(),
            name: text::name(key),
            prefix: key.prefix.clone(),
            scopes: key.scopes.clone(),
            status: text::status(status),
            is_live: status != KeyStatus::Revoked,
            last_used: Moment::maybe(key.last_used_at, now),
            expires: Moment::maybe(key.expires_at, now),
            created: Moment::new(key.created_at, now),
            created_by: text::actor(&key.created_by),
            binding: binding.into_iter().filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        }
    }
}
