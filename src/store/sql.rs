//! The SQL that both databases run as it stands, and the rows that it gives.
//!
//! Parameters are `$N` on both. Statements that only one database understands live in its backend, with the reason.

use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{ListQuery, StoreError};
use crate::domain::{
    key::{Binding, Digest, KeyFacts, KeyId, KeyRecord, KeyStatus},
    rate_limit::RateLimit,
};

/// Implements `FromRow` for the rows of both databases. Each field is read from the column of its name or, after `=`, of
/// another name; after `;`, one that is a row itself is read from the same columns. sqlx's derive is not used: it would
/// build both database drivers a second time for the compiler.
macro_rules! from_row {
    ($name:ident { $($fields:tt)+ }) => {
        from_row!(@for sqlx::postgres::PgRow, $name, $($fields)+);
        from_row!(@for sqlx::sqlite::SqliteRow, $name, $($fields)+);
    };
    (@for $row:ty, $name:ident, $($field:ident $(= $column:literal)?),+ $(; $nested:ident)?) => {
        impl sqlx::FromRow<'_, $row> for $name {
            fn from_row(row: &$row) -> sqlx::Result<Self> {
                use sqlx::Row as _;
                Ok(Self {
                    $($field: row.try_get(from_row!(@column $field $($column)?))?,)+
                    $($nested: sqlx::FromRow::from_row(row)?,)?
                })
            }
        }
    };
    (@column $field:ident) => { stringify!($field) };
    (@column $field:ident $column:literal) => { $column };
}
pub(super) use from_row;

/// What a verification's look-up reads, in the order of [`FactsRow`].
macro_rules! facts {
    () => {
        "k.id, k.keyspace, k.digest, k.organization, k.instance, k.environment, k.name, k.scopes, k.created_at, \
         k.expires_at, k.revoked_at, k.metadata, k.rate_limit, k.rate_window, k.keyspaces"
    };
}
pub(super) use facts;

/// All of a key but its last use, which lives in another table.
macro_rules! columns {
    () => {
        "k.id, k.keyspace, k.digest, k.prefix, k.organization, k.instance, k.environment, k.name, k.scopes, \
         k.created_at, k.expires_at, k.revoked_at, k.revoke_reason, k.created_by, k.revoked_by, k.webhook_url, \
         k.webhook_version, k.metadata, k.revision, k.rate_limit, k.rate_window, k.keyspaces"
    };
}

/// The last use is read for each row that is shown: a join would let a plan read all of `keyward_usage` for one page.
macro_rules! shown {
    () => {
        concat!(
            columns!(),
            ", (SELECT u.last_used_at FROM keyward_usage u WHERE u.key_id = k.id) AS last_used_at FROM keyward_keys k"
        )
    };
}

pub(super) use {columns, shown};

/// The columns of a new key, in the order of `NewKey::values`: `$1` to `$18`.
macro_rules! new_columns {
    () => {
        "id, keyspace, digest, prefix, organization, instance, environment, name, scopes, created_at, expires_at, \
         created_by, webhook_url, webhook_version, metadata, rate_limit, rate_window, keyspaces"
    };
}
pub(super) use new_columns;

/// The values of [`new_columns`].
macro_rules! new_values {
    () => {
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18"
    };
}
pub(super) use new_values;

/// A filter that may be absent. As a CASE, and not `$1 IS NULL OR …`: Postgres takes each such OR, in a plan made for
/// any values, to leave one row in a hundred, and then reads and sorts all keys of an organization for each page.
macro_rules! perhaps {
    ($column:literal, $parameter:literal) => {
        concat!(
            " AND CASE WHEN CAST(",
            $parameter,
            " AS TEXT) IS NULL THEN TRUE ELSE k.",
            $column,
            " = ",
            $parameter,
            " END"
        )
    };
}

/// A page of keys, newest first. A constant for each leading column, since a filter that may be absent uses no index.
/// Parameters: before, keyspace, organization, instance, environment, created_by, status, now, limit.
///
/// The leading column is bounded from both sides rather than equal: its index is then the only one in the order asked
/// for. With equality the primary key is too, and a plan made for any values walks all keys from the newest to find
/// those of one organization.
macro_rules! list {
    (all, $($filter:expr),+) => { list!("k.id < $1", "k.id DESC", $($filter),+) };
    ($column:literal = $parameter:literal, $($filter:expr),+) => {
        list!(
            concat!("(k.", $column, ", k.id) < (", $parameter, ", $1) AND k.", $column, " >= ", $parameter),
            concat!("k.", $column, " DESC, k.id DESC"),
            $($filter),+
        )
    };
    ($place:expr, $order:expr, $($filter:expr),+) => {
        concat!(
            "SELECT ", shown!(), " WHERE ", $place, $($filter,)+
            perhaps!("instance", "$4"), perhaps!("environment", "$5"),
            " AND CASE WHEN CAST($7 AS BIGINT) IS NULL THEN TRUE WHEN k.revoked_at IS NOT NULL THEN $7 = 1 \
             WHEN k.expires_at <= $8 THEN $7 = 2 ELSE $7 = 0 END ORDER BY ", $order, " LIMIT $9"
        )
    };
}

/// Keys of an organization, perhaps filtered further.
pub const LIST_BY_ORGANIZATION: &str =
    list!("organization" = "$3", perhaps!("keyspace", "$2"), perhaps!("created_by", "$6"));
/// Keys of a maker, perhaps filtered further, but not by organization.
pub const LIST_BY_CREATED_BY: &str =
    list!("created_by" = "$6", perhaps!("keyspace", "$2"), perhaps!("organization", "$3"));
/// Keys of a keyspace, perhaps filtered further, but not by organization or maker.
pub const LIST_BY_KEYSPACE: &str =
    list!("keyspace" = "$2", perhaps!("organization", "$3"), perhaps!("created_by", "$6"));
/// Keys, perhaps filtered, but not by organization, maker or keyspace.
pub const LIST_ALL: &str =
    list!(all, perhaps!("keyspace", "$2"), perhaps!("organization", "$3"), perhaps!("created_by", "$6"));

/// The key with digest `$1`: the look-up of a verification.
pub const FIND_BY_DIGEST: &str = concat!("SELECT ", facts!(), " FROM keyward_keys k WHERE k.digest = $1");
/// The key with id `$1`.
pub const FIND_BY_ID: &str = concat!("SELECT ", shown!(), " WHERE k.id = $1");

/// The changes to keys. A rotation keeps the oldest secret that still signs, while there are not eight of them; the lower
/// half of a version counts. Postgres runs each inside a statement that writes its event too, SQLite in a transaction; what
/// Postgres takes beforehand comes in between.
macro_rules! set_webhook {
    ($first:literal) => {
        concat!(
            "UPDATE keyward_keys SET webhook_url = $2, \
             webhook_version = CASE WHEN $2 <> '' AND webhook_version = $4 THEN $5 ELSE webhook_version END, \
             webhook_former_version = \
             CASE WHEN $2 = '' OR webhook_version <> $4 OR $4 = 0 THEN webhook_former_version \
             WHEN webhook_former_until > $3 AND $4 % 4294967296 - webhook_former_version % 4294967296 < 8 \
             THEN webhook_former_version ELSE $4 END, \
             webhook_former_until = \
             CASE WHEN $2 <> '' AND webhook_version = $4 AND $4 <> 0 THEN $6 ELSE webhook_former_until END",
            $first,
            " WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $3)"
        )
    };
}
macro_rules! disable_webhook {
    ($first:literal) => {
        concat!(
            "UPDATE keyward_keys SET webhook_url = ''",
            $first,
            " WHERE id = $1 AND webhook_url = $2 AND webhook_url <> '' AND revoked_at IS NULL"
        )
    };
}
pub(super) use {disable_webhook, set_webhook};

/// Revokes key `$1` at `$2` for reason `$3` by `$4`, unless it is revoked. Postgres revokes several in one statement.
pub const REVOKE_KEY: &str = "UPDATE keyward_keys SET revoked_at = $2, revoke_reason = $3, revoked_by = $4 \
     WHERE id = $1 AND revoked_at IS NULL";
/// Sets the webhook of key `$1` to `$2`, unless it is revoked, or expired at `$3`. Its secret of version `$4` (0: none yet)
/// is followed by `$5`, and signs, too, until `$6`.
pub const SET_WEBHOOK: &str = set_webhook!("");
/// Removes the webhook of key `$1` if it is `$2` and the key is not revoked.
pub const DISABLE_WEBHOOK: &str = disable_webhook!("");

/// Keeps the setting `$1` as `$2` unless it is there.
pub const PROPOSE_SETTING: &str = "INSERT INTO keyward_settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
/// Makes the setting `$1` `$3` if it is `$2`.
pub const EXCHANGE_SETTING: &str = "UPDATE keyward_settings SET value = $3 WHERE name = $1 AND value = $2";
/// The setting `$1`.
pub const FIND_SETTING: &str = "SELECT value FROM keyward_settings WHERE name = $1";

/// Every statement above, by name: a test prepares each on both databases.
pub const ALL: &[(&str, &str)] = &[
    ("LIST_BY_ORGANIZATION", LIST_BY_ORGANIZATION),
    ("LIST_BY_CREATED_BY", LIST_BY_CREATED_BY),
    ("LIST_BY_KEYSPACE", LIST_BY_KEYSPACE),
    ("LIST_ALL", LIST_ALL),
    ("FIND_BY_DIGEST", FIND_BY_DIGEST),
    ("FIND_BY_ID", FIND_BY_ID),
    ("REVOKE_KEY", REVOKE_KEY),
    ("SET_WEBHOOK", SET_WEBHOOK),
    ("DISABLE_WEBHOOK", DISABLE_WEBHOOK),
    ("PROPOSE_SETTING", PROPOSE_SETTING),
    ("EXCHANGE_SETTING", EXCHANGE_SETTING),
    ("FIND_SETTING", FIND_SETTING),
];

/// The statement whose index fits a query best: the narrowest filter leads.
pub fn list_for(query: &ListQuery) -> &'static str {
    if query.organization.is_some() {
        LIST_BY_ORGANIZATION
    } else if query.created_by.is_some() {
        LIST_BY_CREATED_BY
    } else if query.keyspace.is_some() {
        LIST_BY_KEYSPACE
    } else {
        LIST_ALL
    }
}

/// A status as the list statements number it.
pub fn status_number(status: KeyStatus) -> i64 {
    match status {
        KeyStatus::Active => 0,
        KeyStatus::Revoked => 1,
        KeyStatus::Expired => 2,
    }
}

/// A row of `shown!`: a key with its last use.
pub struct KeyRow {
    pub(super) id: Uuid,
    pub(super) keyspace: String,
    pub(super) digest: Vec<u8>,
    pub(super) prefix: String,
    pub(super) organization: String,
    pub(super) instance: String,
    pub(super) environment: String,
    pub(super) name: String,
    pub(super) scopes: String,
    pub(super) created_at: i64,
    pub(super) expires_at: Option<i64>,
    pub(super) revoked_at: Option<i64>,
    pub(super) revoke_reason: String,
    pub(super) created_by: String,
    pub(super) revoked_by: String,
    pub(super) webhook_url: String,
    pub(super) webhook_version: i64,
    pub(super) metadata: String,
    pub(super) revision: i64,
    pub(super) rate_limit: Option<i64>,
    pub(super) rate_window: Option<i64>,
    pub(super) keyspaces: String,
    pub(super) last_used_at: Option<i64>,
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
        let read = Readable { id };
        let digest = read.digest(row.digest)?;
        let scopes = read.json("scopes", &row.scopes)?;
        let metadata = read.json("metadata", &row.metadata)?;
        let rate_limit = read.rate_limit(row.rate_limit, row.rate_window)?;
        // Read as none, a limit that cannot be read would let a service ask about everything.
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

/// A row of `keyward_keys` as a verification reads it: by the columns' places, which costs less than by their names.
pub type FactsRow = (
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

/// Reads a row of [`FactsRow`].
pub fn read_facts(row: FactsRow) -> Result<KeyFacts, StoreError> {
    let (id, keyspace, digest, organization, instance, environment, name, scopes, created_at, ..) = row;
    let (.., expires_at, revoked_at, metadata, limit, window, keyspaces) = row;
    let read = Readable { id: KeyId(id) };
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

/// Reads columns of a key. What one holds that cannot be read is not told: it may be anything.
struct Readable {
    id: KeyId,
}

impl Readable {
    fn unreadable(&self, column: &str) -> StoreError {
        StoreError::Row(format!("the {column} of {} cannot be read", self.id))
    }

    fn digest(&self, bytes: Vec<u8>) -> Result<Digest, StoreError> {
        bytes.try_into().map(Digest).map_err(|_| self.unreadable("digest"))
    }

    /// Most lists and objects are empty.
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
        // One that is out of its bounds would be calculated with on each check.
        let sound = read.filter(|read| read.has_valid_limit() && read.has_valid_window());
        sound.map(Some).ok_or_else(|| self.unreadable("rate limit"))
    }
}
