//! The SQL about events and deliveries that both databases run as it stands.

use super::events::EventQuery;
use crate::domain::event::EventType;

/// An event's columns, as they are read.
macro_rules! event_columns {
    () => {
        "e.id, e.type, e.actor, e.key_id, e.keyspace, e.organization, e.instance, e.environment, e.once, e.record"
    };
}
pub(super) use event_columns;

/// Begins the writing of an event.
macro_rules! insert_event {
    () => {
        "INSERT INTO keyward_events (id, type, actor, key_id, keyspace, organization, instance, environment, once, record)"
    };
}
pub(super) use insert_event;

/// What an event keeps of its key's row `k`; `$object` makes a JSON object. Only what is public, and `Snapshot` reads it.
macro_rules! event_of_key {
    ($object:literal) => {
        concat!(
            "CAST(",
            $object,
            "('prefix', k.prefix, 'name', k.name, 'scopes', k.scopes, 'created_at', k.created_at, \
             'expires_at', k.expires_at, 'revoked_at', k.revoked_at, 'revoke_reason', k.revoke_reason, \
             'created_by', k.created_by, 'revoked_by', k.revoked_by, 'webhook_url', k.webhook_url, \
             'metadata', k.metadata, 'rate_limit', k.rate_limit, 'rate_window', k.rate_window, \
             'keyspaces', k.keyspaces) AS TEXT)"
        )
    };
}
pub(super) use event_of_key;

/// A delivery's columns, as they are read.
macro_rules! delivery_columns {
    () => {
        "d.event_id, d.key_id, d.host, d.state, d.attempts, d.next_attempt_at, d.attempted_at, d.settled_at, \
         d.last_status, d.last_error, d.last_response"
    };
}

/// What a worker needs to attempt a delivery.
macro_rules! claim_columns {
    ($attempts:literal) => {
        concat!(
            event_columns!(),
            ", d.host, k.webhook_url, k.webhook_version, k.webhook_former_version, k.webhook_former_until, ",
            $attempts,
            " AS attempts, d.attempts_before"
        )
    };
}
pub(super) use claim_columns;

/// A filter that may be absent; as a CASE for the reason that the lists of keys give.
macro_rules! perhaps {
    ($column:literal, $parameter:literal) => {
        concat!(
            " AND CASE WHEN CAST(",
            $parameter,
            " AS TEXT) IS NULL THEN TRUE ELSE e.",
            $column,
            " = ",
            $parameter,
            " END"
        )
    };
}

/// The filters that lead no index, and those that may.
macro_rules! filters {
    () => {
        concat!(
            perhaps!("keyspace", "$3"),
            perhaps!("organization", "$4"),
            perhaps!("instance", "$5"),
            perhaps!("environment", "$6"),
            perhaps!("type", "$7"),
            perhaps!("actor", "$8")
        )
    };
}

/// A page of events, newest first. Parameters: below, from, keyspace, organization, instance, environment, type, actor,
/// limit; for the events of a key, the key before the limit.
///
/// A leading column is bounded from both sides, for the reason that the lists of keys give.
macro_rules! events {
    ($place:expr, $order:expr, $limit:literal) => {
        concat!(
            "SELECT ",
            event_columns!(),
            " FROM keyward_events e WHERE ",
            $place,
            filters!(),
            " ORDER BY ",
            $order,
            " LIMIT ",
            $limit
        )
    };
    ($column:literal = $parameter:literal, $limit:literal) => {
        events!(
            concat!(
                "(e.",
                $column,
                ", e.id) < (",
                $parameter,
                ", $1) AND (e.",
                $column,
                ", e.id) >= (",
                $parameter,
                ", $2)"
            ),
            concat!("e.", $column, " DESC, e.id DESC"),
            $limit
        )
    };
    ($column:literal = $parameter:literal but creations, $limit:literal) => {
        events!(
            concat!(
                "(e.",
                $column,
                ", e.id) < (",
                $parameter,
                ", $1) AND (e.",
                $column,
                ", e.id) >= (",
                $parameter,
                ", $2) AND e.type <> 'key.created'"
            ),
            concat!("e.", $column, " DESC, e.id DESC"),
            $limit
        )
    };
}

/// Events of one key: its changes by their index, and its creation by its id, which no other event has.
pub const EVENTS_BY_KEY: &str = concat!(
    "SELECT * FROM (",
    events!("key_id" = "$9" but creations, "$10"),
    ") AS changes UNION ALL SELECT * FROM (SELECT ",
    event_columns!(),
    " FROM keyward_events e WHERE e.id = $9 AND e.id < $1 AND e.id >= $2",
    filters!(),
    ") AS creation ORDER BY id DESC LIMIT $10"
);
/// Events of an organization's keys, perhaps filtered further.
pub const EVENTS_BY_ORGANIZATION: &str = events!("organization" = "$4", "$9");
/// Events by an actor, perhaps filtered further, but not by organization.
pub const EVENTS_BY_ACTOR: &str = events!("actor" = "$8", "$9");
/// Events of a type other than `key.created`, perhaps filtered by keyspace.
pub const EVENTS_BY_TYPE: &str = events!("type" = "$7" but creations, "$9");
/// Events, perhaps filtered by keyspace, or creations alone: each is a large part of all.
pub const EVENTS_ALL: &str = events!("e.id < $1 AND e.id >= $2", "e.id DESC", "$9");

/// The event `$1`.
pub const FIND_EVENT: &str = concat!("SELECT ", event_columns!(), " FROM keyward_events e WHERE e.id = $1");

/// The delivery of event `$1`.
pub const FIND_DELIVERY: &str =
    concat!("SELECT ", delivery_columns!(), " FROM keyward_deliveries d WHERE d.event_id = $1");
/// At most `$3` deliveries of key `$1`, of events below `$2`, newest first.
pub const DELIVERIES_BY_KEY: &str = concat!(
    "SELECT ",
    delivery_columns!(),
    " FROM keyward_deliveries d WHERE d.key_id = $1 AND d.event_id < $2 ORDER BY d.event_id DESC LIMIT $3"
);
/// Ends the claim `$2` of the delivery of event `$1`: at `$3`, state, next attempt, status, error, response, and the end.
pub const SETTLE_DELIVERY: &str = "UPDATE keyward_deliveries SET attempted_at = $3, state = $4, next_attempt_at = $5, \
     last_status = $6, last_error = $7, last_response = $8, settled_at = $9 \
     WHERE event_id = $1 AND state = 'pending' AND attempts = $2";
/// Ends the claim `$2` of the delivery of event `$1` as if it had never been: it is due at `$3`.
pub const RELEASE_DELIVERY: &str = "UPDATE keyward_deliveries SET attempts = attempts - 1, next_attempt_at = $3 \
     WHERE event_id = $1 AND state = 'pending' AND attempts = $2";

/// At most `$6` keys that expire past the position `$1`, `$2` and by `$3`, in that order, and whether the event of type
/// `$4` and `$5` is written.
pub const EXPIRING_KEYS: &str = "SELECT k.id, k.expires_at, k.created_at, CAST(CASE WHEN EXISTS (SELECT 1 \
     FROM keyward_events e WHERE e.key_id = k.id AND e.type = $4 AND e.once = $5 AND e.once IS NOT NULL) \
     THEN 1 ELSE 0 END AS BIGINT) AS written FROM keyward_keys k WHERE (k.expires_at, k.id) > ($1, $2) \
     AND k.expires_at <= $3 AND k.expires_at IS NOT NULL AND k.revoked_at IS NULL ORDER BY k.expires_at, k.id LIMIT $6";

/// How many deliveries are pending.
pub const PENDING: &str = "SELECT count(*) FROM keyward_deliveries WHERE state = 'pending'";
/// When the first of them is due.
pub const FIRST_DUE: &str =
    "SELECT next_attempt_at FROM keyward_deliveries WHERE state = 'pending' ORDER BY next_attempt_at LIMIT 1";

/// Raises the number kept as `$1` to `$2`.
pub const RAISE_SETTING: &str =
    "UPDATE keyward_settings SET value = $2 WHERE name = $1 AND CAST(value AS BIGINT) < CAST($2 AS BIGINT)";
/// Sets the number kept as `$1` to `$2`, unless it lies between `$3` and `$4`.
pub const TAKE_TURN: &str = "UPDATE keyward_settings SET value = $2 WHERE name = $1 \
     AND NOT (CAST(value AS BIGINT) > $3 AND CAST(value AS BIGINT) < $4)";

/// Every statement above, by name: a test prepares each on both databases.
pub const ALL: &[(&str, &str)] = &[
    ("EVENTS_BY_KEY", EVENTS_BY_KEY),
    ("EVENTS_BY_ORGANIZATION", EVENTS_BY_ORGANIZATION),
    ("EVENTS_BY_ACTOR", EVENTS_BY_ACTOR),
    ("EVENTS_BY_TYPE", EVENTS_BY_TYPE),
    ("EVENTS_ALL", EVENTS_ALL),
    ("FIND_EVENT", FIND_EVENT),
    ("FIND_DELIVERY", FIND_DELIVERY),
    ("DELIVERIES_BY_KEY", DELIVERIES_BY_KEY),
    ("SETTLE_DELIVERY", SETTLE_DELIVERY),
    ("RELEASE_DELIVERY", RELEASE_DELIVERY),
    ("EXPIRING_KEYS", EXPIRING_KEYS),
    ("PENDING", PENDING),
    ("FIRST_DUE", FIRST_DUE),
    ("RAISE_SETTING", RAISE_SETTING),
    ("TAKE_TURN", TAKE_TURN),
];

/// The statement whose index fits a query best: the narrowest filter leads.
pub fn events_for(query: &EventQuery) -> &'static str {
    if query.key.is_some() {
        EVENTS_BY_KEY
    } else if query.organization.is_some() {
        EVENTS_BY_ORGANIZATION
    } else if query.actor.is_some() {
        EVENTS_BY_ACTOR
    } else if query.kind.is_some_and(|kind| kind != EventType::KeyCreated) {
        EVENTS_BY_TYPE
    } else {
        EVENTS_ALL
    }
}
