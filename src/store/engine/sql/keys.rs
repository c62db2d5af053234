//! The SQL about keys.

use super::filter::{Listing, optional_filter, scan_end};
use crate::{
    domain::key::KeyStatus,
    store::{engine::connection::Value, keys::ListQuery},
};

/// The columns that a verification's look-up reads, in the order of `FactsRow`.
macro_rules! fact_columns {
    () => {
        "k.id, k.keyspace, k.digest, k.organization, k.instance, k.environment, k.name, k.scopes, k.created_at, \
         k.expires_at, k.revoked_at, k.metadata, k.rate_limit, k.rate_window, k.keyspaces"
    };
}
pub(crate) use fact_columns;

/// The columns of a key. Its last use is in another table.
macro_rules! key_columns {
    () => {
        "k.id, k.keyspace, k.digest, k.prefix, k.organization, k.instance, k.environment, k.name, k.scopes, \
         k.created_at, k.expires_at, k.revoked_at, k.revoke_reason, k.created_by, k.revoked_by, k.webhook_url, \
         k.webhook_version, k.metadata, k.revision, k.rate_limit, k.rate_window, k.keyspaces"
    };
}

/// The columns of a key and its last use. The last use is a sub-select for each row: with a join, a plan could read all of
/// `keyward_usage` for one page.
macro_rules! key_with_usage {
    () => {
        key_with_usage!("keyward_keys")
    };
    ($from:expr) => {
        concat!(
            key_columns!(),
            ", (SELECT u.last_used_at FROM keyward_usage u WHERE u.key_id = k.id) AS last_used_at FROM ",
            $from,
            " k"
        )
    };
}

pub(crate) use {key_columns, key_with_usage};

/// The columns of a new key, in the order of `NewKey::values`: `$1` to `$19`.
macro_rules! new_columns {
    () => {
        "id, keyspace, digest, prefix, organization, instance, environment, name, scopes, created_at, expires_at, \
         created_by, webhook_url, webhook_version, metadata, rate_limit, rate_window, keyspaces, webhook_host"
    };
}
pub(crate) use new_columns;

/// The values of [`new_columns`].
macro_rules! new_values {
    () => {
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19"
    };
}
pub(crate) use new_values;

/// The condition of the index of live keys, and its leading columns.
macro_rules! live {
    () => {
        "k.organization = $1 AND k.keyspace = $2 AND k.revoked_at IS NULL AND k.organization <> ''"
    };
}

/// A page of keys, newest first. There is one constant for each leading column, because an optional filter uses no index.
/// Parameters: before, keyspace, organization, instance, environment, created_by, status, now, limit, from.
///
/// The leading column is bounded from both sides instead of compared for equality, so that only its index gives the rows
/// in order. With equality the primary key does, too, and a generic plan walks all keys from the newest to find those
/// of one organization.
macro_rules! list {
    (all, $($filter:expr),+) => { list!("k.id < $1 AND k.id >= $10", "k.id DESC", $($filter),+) };
    ($column:literal = $parameter:literal, $($filter:expr),+) => {
        list!(
            concat!(
                "(k.", $column, ", k.id) < (", $parameter, ", $1) AND (k.", $column, ", k.id) >= (", $parameter, ", $10)"
            ),
            concat!("k.", $column, " DESC, k.id DESC"),
            $($filter),+
        )
    };
    ($position:expr, $order:expr, $($filter:expr),+) => {
        concat!(
            "SELECT ", key_with_usage!(), " WHERE ", $position, $($filter,)+
            optional_filter!("k.instance", "$4"), optional_filter!("k.environment", "$5"),
            " AND CASE WHEN CAST($7 AS BIGINT) IS NULL THEN TRUE WHEN k.revoked_at IS NOT NULL THEN $7 = 1 \
             WHEN k.expires_at <= $8 THEN $7 = 2 ELSE $7 = 0 END ORDER BY ", $order, " LIMIT $9"
        )
    };
}

/// Keys of an organization.
pub const LIST_BY_ORGANIZATION: &str =
    list!("organization" = "$3", optional_filter!("k.keyspace", "$2"), optional_filter!("k.created_by", "$6"));
/// Keys created by one caller, of any organization.
pub const LIST_BY_CREATED_BY: &str =
    list!("created_by" = "$6", optional_filter!("k.keyspace", "$2"), optional_filter!("k.organization", "$3"));
/// Keys of a keyspace, of any organization and creator.
pub const LIST_BY_KEYSPACE: &str =
    list!("keyspace" = "$2", optional_filter!("k.organization", "$3"), optional_filter!("k.created_by", "$6"));
/// Keys of any organization, creator and keyspace.
pub const LIST_ALL: &str = list!(
    all,
    optional_filter!("k.keyspace", "$2"),
    optional_filter!("k.organization", "$3"),
    optional_filter!("k.created_by", "$6")
);

/// Where a page of [`LIST_BY_ORGANIZATION`] ends.
pub const END_BY_ORGANIZATION: &str = scan_end!("keyward_keys", "organization");
/// Where a page of [`LIST_BY_CREATED_BY`] ends.
pub const END_BY_CREATED_BY: &str = scan_end!("keyward_keys", "created_by");
/// Where a page of [`LIST_BY_KEYSPACE`] ends.
pub const END_BY_KEYSPACE: &str = scan_end!("keyward_keys", "keyspace");
/// Where a page of [`LIST_ALL`] ends.
pub const END_ALL: &str = scan_end!("keyward_keys");

/// Number of keys of organization `$1` in keyspace `$2` that are neither revoked nor expired at `$3`; at most twice
/// `$4`. Two ranges of the index, so that keys that have expired are not read.
pub const COUNT_LIVE: &str = concat!(
    "SELECT (SELECT count(*) FROM (SELECT 1 FROM keyward_keys k WHERE ",
    live!(),
    " AND k.expires_at IS NULL LIMIT $4) AS lasting) + (SELECT count(*) FROM (SELECT 1 FROM keyward_keys k WHERE ",
    live!(),
    " AND k.expires_at > $3 LIMIT $4) AS expiring)"
);

/// A search with optional filters. Parameters: keyspace, organization, instance, environment, created_by, status, now,
/// limit.
///
/// With a `bound`, the filters are applied to as many rows as that parameter says, the first ones of the index. Otherwise
/// a filter that fits nothing would read every row that the search finds.
macro_rules! search {
    ($found:literal, $order:literal) => {
        search!(key_with_usage!(), $found, $order)
    };
    (bound $bound:literal, $found:literal, $expressions:literal, $inner_order:literal, $order:literal) => {
        search!(
            key_with_usage!(concat!(
                "(SELECT ",
                key_columns!(),
                $expressions,
                " FROM keyward_keys k WHERE ",
                $found,
                " ORDER BY ",
                $inner_order,
                " LIMIT ",
                $bound,
                ")"
            )),
            "TRUE",
            $order
        )
    };
    ($columns:expr, $found:literal, $order:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " WHERE ",
            $found,
            optional_filter!("k.keyspace", "$1"),
            optional_filter!("k.organization", "$2"),
            optional_filter!("k.instance", "$3"),
            optional_filter!("k.environment", "$4"),
            optional_filter!("k.created_by", "$5"),
            " AND CASE WHEN CAST($6 AS BIGINT) IS NULL THEN TRUE WHEN k.revoked_at IS NOT NULL THEN $6 = 1 \
             WHEN k.expires_at <= $7 THEN $6 = 2 ELSE $6 = 0 END ORDER BY ",
            $order,
            " LIMIT $8"
        )
    };
}

/// Keys whose name in lower case is between `$9` and `$10`, by name. Without filters.
pub const SEARCH_BY_NAME: &str =
    search!("lower(k.name) >= $9 AND lower(k.name) < $10", "lower(k.name), k.organization, k.id");
/// The same with filters, which are applied to the first `$11` of them.
pub const SEARCH_BY_NAME_FILTERED: &str = search!(
    bound "$11",
    "lower(k.name) >= $9 AND lower(k.name) < $10",
    ", lower(k.name) AS lower_name",
    "lower(k.name), k.organization, k.id",
    "k.lower_name, k.organization, k.id"
);
/// Number of keys whose name in lower case is between `$1` and `$2`; at most `$3`.
pub const COUNT_BY_NAME: &str = "SELECT count(*) FROM (SELECT 1 FROM keyward_keys k WHERE lower(k.name) >= $1 \
     AND lower(k.name) < $2 LIMIT $3) AS found";
/// Keys whose prefix is `$9`, newest first. Bounded from both sides, for the same reason as in the lists.
pub const SEARCH_BY_PREFIX: &str = search!("k.prefix >= $9 AND k.prefix <= $9", "k.prefix DESC, k.id DESC");
/// Keys that expire after `$7` and before `$9`, the soonest first. Without filters.
pub const SEARCH_BY_EXPIRY: &str = search!(
    "k.expires_at > $7 AND k.expires_at < $9 AND k.expires_at IS NOT NULL AND k.revoked_at IS NULL",
    "k.expires_at, k.id"
);
/// The same with filters, which are applied to the first `$10` of them.
pub const SEARCH_BY_EXPIRY_FILTERED: &str = search!(
    bound "$10",
    "k.expires_at > $7 AND k.expires_at < $9 AND k.expires_at IS NOT NULL AND k.revoked_at IS NULL",
    "",
    "k.expires_at, k.id",
    "k.expires_at, k.id"
);
/// The same for one organization and keyspace; only its keys are read.
pub const SEARCH_BY_EXPIRY_OF_ORGANIZATION: &str = search!(
    bound "$10",
    "k.organization = $2 AND k.keyspace = $1 AND k.revoked_at IS NULL AND k.organization <> '' AND k.expires_at > $7 \
     AND k.expires_at < $9",
    "",
    "k.expires_at",
    "k.expires_at, k.id"
);
/// Number of keys of organization `$1` and keyspace `$2` that expire after `$3` and before `$4`; at most `$5`.
pub const COUNT_BY_EXPIRY_OF_ORGANIZATION: &str = concat!(
    "SELECT count(*) FROM (SELECT 1 FROM keyward_keys k WHERE ",
    live!(),
    " AND k.expires_at > $3 AND k.expires_at < $4 LIMIT $5) AS found"
);
/// Number of keys that expire after `$1` and before `$2`; at most `$3`.
pub const COUNT_BY_EXPIRY: &str = "SELECT count(*) FROM (SELECT 1 FROM keyward_keys k WHERE k.expires_at > $1 \
     AND k.expires_at < $2 AND k.expires_at IS NOT NULL AND k.revoked_at IS NULL LIMIT $3) AS found";

/// Counts the newest `$5` keys by status at `$3`, and by the day of their creation if that is at `$4` or later; by keyspace
/// `$1`, organization `$2`, instance `$7` and environment `$8`. `$6` is above every id.
macro_rules! count {
    ($position:literal, $order:literal, $($filter:expr),+) => {
        concat!(
            "SELECT status, day, count(*) FROM (SELECT CAST(CASE WHEN k.revoked_at IS NOT NULL THEN 1 \
             WHEN k.expires_at <= $3 THEN 2 ELSE 0 END AS BIGINT) AS status, \
             CASE WHEN k.created_at >= $4 THEN k.created_at / 86400000000 ELSE -1 END AS day FROM keyward_keys k WHERE ",
            $position,
            $($filter,)+
            optional_filter!("k.keyspace", "$1"),
            optional_filter!("k.instance", "$7"),
            optional_filter!("k.environment", "$8"),
            " ORDER BY ",
            $order,
            " LIMIT $5) AS newest GROUP BY status, day"
        )
    };
}

/// Counts keys of an organization.
pub const COUNT_BY_ORGANIZATION: &str =
    count!("(k.organization, k.id) < ($2, $6) AND k.organization >= $2", "k.organization DESC, k.id DESC", "");
/// Counts keys of any organization.
pub const COUNT_ALL: &str = count!("k.id < $6", "k.id DESC", optional_filter!("k.organization", "$2"));

/// The key with digest `$1`: the look-up of a verification. One digest at a time is the usual case.
pub const FIND_BY_DIGEST: &str = concat!("SELECT ", fact_columns!(), " FROM keyward_keys k WHERE k.digest = $1");
/// The key with id `$1`.
pub const FIND_BY_ID: &str = concat!("SELECT ", key_with_usage!(), " WHERE k.id = $1");

/// Sets a webhook. A rotation keeps the oldest secret that still signs, as long as fewer than eight do; the lower half of a
/// version is its number. SQLite runs the UPDATE in a transaction, Postgres inside the statement that also writes the
/// event; `$from` is the FROM clause that Postgres adds.
macro_rules! set_webhook {
    ($from:literal) => {
        concat!(
            "UPDATE keyward_keys SET webhook_url = $2, webhook_host = $7, \
             webhook_version = CASE WHEN $2 <> '' AND webhook_version = $4 THEN $5 ELSE webhook_version END, \
             webhook_former_version = \
             CASE WHEN $2 = '' OR webhook_version <> $4 OR $4 = 0 THEN webhook_former_version \
             WHEN webhook_former_until > $3 AND $4 % 4294967296 - webhook_former_version % 4294967296 < 8 \
             THEN webhook_former_version ELSE $4 END, \
             webhook_former_until = \
             CASE WHEN $2 <> '' AND webhook_version = $4 AND $4 <> 0 THEN $6 ELSE webhook_former_until END",
            $from,
            " WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $3)"
        )
    };
}
/// Removes a webhook; see [`set_webhook`].
macro_rules! disable_webhook {
    ($from:literal) => {
        concat!(
            "UPDATE keyward_keys SET webhook_url = '', webhook_host = ''",
            $from,
            " WHERE id = $1 AND webhook_url = $2 AND webhook_url <> '' AND revoked_at IS NULL"
        )
    };
}
pub(crate) use {disable_webhook, set_webhook};

/// Revokes key `$1` at `$2` for reason `$3` by `$4`, unless it is revoked. SQLite only: Postgres revokes several keys
/// in one statement.
pub const REVOKE_KEY: &str = "UPDATE keyward_keys SET revoked_at = $2, revoke_reason = $3, revoked_by = $4 \
     WHERE id = $1 AND revoked_at IS NULL";
/// Sets the webhook of key `$1` to `$2`, whose host is `$7`, unless the key is revoked, or expired at `$3`. Its secret
/// changes from version `$4` (0: none yet) to `$5`; the former one goes on signing until `$6`.
pub const SET_WEBHOOK: &str = set_webhook!("");
/// Removes the webhook of key `$1` if its URL is `$2` and the key is not revoked.
pub const DISABLE_WEBHOOK: &str = disable_webhook!("");

/// Each statement of this file, by name. A test prepares them on both databases.
pub const ALL: &[(&str, &str)] = &[
    ("LIST_BY_ORGANIZATION", LIST_BY_ORGANIZATION),
    ("LIST_BY_CREATED_BY", LIST_BY_CREATED_BY),
    ("LIST_BY_KEYSPACE", LIST_BY_KEYSPACE),
    ("LIST_ALL", LIST_ALL),
    ("END_BY_ORGANIZATION", END_BY_ORGANIZATION),
    ("END_BY_CREATED_BY", END_BY_CREATED_BY),
    ("END_BY_KEYSPACE", END_BY_KEYSPACE),
    ("END_ALL", END_ALL),
    ("COUNT_LIVE", COUNT_LIVE),
    ("SEARCH_BY_NAME", SEARCH_BY_NAME),
    ("SEARCH_BY_NAME_FILTERED", SEARCH_BY_NAME_FILTERED),
    ("COUNT_BY_NAME", COUNT_BY_NAME),
    ("SEARCH_BY_PREFIX", SEARCH_BY_PREFIX),
    ("SEARCH_BY_EXPIRY", SEARCH_BY_EXPIRY),
    ("SEARCH_BY_EXPIRY_FILTERED", SEARCH_BY_EXPIRY_FILTERED),
    ("SEARCH_BY_EXPIRY_OF_ORGANIZATION", SEARCH_BY_EXPIRY_OF_ORGANIZATION),
    ("COUNT_BY_EXPIRY_OF_ORGANIZATION", COUNT_BY_EXPIRY_OF_ORGANIZATION),
    ("COUNT_BY_EXPIRY", COUNT_BY_EXPIRY),
    ("COUNT_BY_ORGANIZATION", COUNT_BY_ORGANIZATION),
    ("COUNT_ALL", COUNT_ALL),
    ("FIND_BY_DIGEST", FIND_BY_DIGEST),
    ("FIND_BY_ID", FIND_BY_ID),
    ("REVOKE_KEY", REVOKE_KEY),
    ("SET_WEBHOOK", SET_WEBHOOK),
    ("DISABLE_WEBHOOK", DISABLE_WEBHOOK),
];

/// Returns the statements whose index fits a query best: the narrowest filter leads.
pub fn list_for(query: &ListQuery) -> Listing<'_> {
    let ListQuery { keyspace, organization, instance, environment, status, created_by, .. } = query;
    let filters = [keyspace, organization, instance, environment, created_by];
    let filters = filters.iter().filter(|filter| filter.is_some()).count() + usize::from(status.is_some());
    let (rows, end, lead) = match (organization, created_by, keyspace) {
        (Some(lead), ..) => (LIST_BY_ORGANIZATION, END_BY_ORGANIZATION, Some(lead)),
        (None, Some(lead), _) => (LIST_BY_CREATED_BY, END_BY_CREATED_BY, Some(lead)),
        (None, None, Some(lead)) => (LIST_BY_KEYSPACE, END_BY_KEYSPACE, Some(lead)),
        (None, None, None) => (LIST_ALL, END_ALL, None),
    };
    let is_exact = filters == usize::from(lead.is_some());
    Listing { rows, end, lead: lead.map(|lead| Value::Text(lead)), is_exact }
}

/// Returns the number that the list statements use for a status.
pub fn status_number(status: KeyStatus) -> i64 {
    match status {
        KeyStatus::Active => 0,
        KeyStatus::Revoked => 1,
        KeyStatus::Expired => 2,
    }
}
