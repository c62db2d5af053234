//! The SQL about events and deliveries.

use super::filter::{Listing, optional_filter, scan_end};
use crate::{
    domain::event::EventType,
    store::{engine::connection::Value, events::EventQuery},
};

/// The columns of an event.
macro_rules! event_columns {
    () => {
        "e.id, e.type, e.actor, e.key_id, e.keyspace, e.organization, e.instance, e.environment, e.once, e.record, \
         e.details"
    };
}
pub(crate) use event_columns;

/// The beginning of each statement that writes an event.
macro_rules! insert_event {
    () => {
        "INSERT INTO keyward_events (id, type, actor, key_id, keyspace, organization, instance, environment, once, record)"
    };
    (with details) => {
        "INSERT INTO keyward_events \
         (id, type, actor, key_id, keyspace, organization, instance, environment, once, record, details)"
    };
}
pub(crate) use insert_event;

/// The snapshot of the key's row `k` that an event keeps, as JSON made by the function `$object`. It has no secret and no
/// digest. `KeySnapshot` reads it.
macro_rules! key_snapshot {
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
pub(crate) use key_snapshot;

/// The columns of a delivery.
macro_rules! delivery_columns {
    () => {
        "d.event_id, d.key_id, d.host, d.state, d.attempts, d.next_attempt_at, d.attempted_at, d.settled_at, \
         d.last_status, d.last_error, d.last_response"
    };
}

/// The columns of a claimed delivery.
macro_rules! claim_columns {
    ($attempts:literal, $claim:literal) => {
        concat!(
            event_columns!(),
            ", d.host, k.webhook_url, k.webhook_version, k.webhook_former_version, k.webhook_former_until, ",
            $attempts,
            " AS attempts, d.attempts_before, ",
            $claim,
            " AS claim"
        )
    };
}
pub(crate) use claim_columns;

/// All filters of a page of events.
macro_rules! filters {
    () => {
        concat!(
            optional_filter!("e.keyspace", "$3"),
            optional_filter!("e.organization", "$4"),
            optional_filter!("e.instance", "$5"),
            optional_filter!("e.environment", "$6"),
            optional_filter!("e.type", "$7"),
            optional_filter!("e.actor", "$8")
        )
    };
}

/// A page of events, newest first. Parameters: below, from, keyspace, organization, instance, environment, type, actor,
/// limit; for the events of a key, the key before the limit.
///
/// A leading column is bounded from both sides, for the same reason as in the lists of keys.
macro_rules! events {
    ($position:expr, $order:expr, $limit:literal) => {
        concat!(
            "SELECT ",
            event_columns!(),
            " FROM keyward_events e WHERE ",
            $position,
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
    ($column:literal = $parameter:literal except creations, $limit:literal) => {
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

/// Events of one key: its changes by their index, and its creation by its id, which is the key's.
pub const EVENTS_BY_KEY: &str = concat!(
    "SELECT * FROM (",
    events!("key_id" = "$9" except creations, "$10"),
    ") AS changes UNION ALL SELECT * FROM (SELECT ",
    event_columns!(),
    " FROM keyward_events e WHERE e.id = $9 AND e.id < $1 AND e.id >= $2",
    filters!(),
    ") AS creation ORDER BY id DESC LIMIT $10"
);
/// Events of an organization's keys.
pub const EVENTS_BY_ORGANIZATION: &str = events!("organization" = "$4", "$9");
/// Events caused by one actor, of any organization.
pub const EVENTS_BY_ACTOR: &str = events!("actor" = "$8", "$9");
/// Events of a type other than `key.created`.
pub const EVENTS_BY_TYPE: &str = events!("type" = "$7" except creations, "$9");
/// Events of any type, or creations alone: these are a large part of all events.
pub const EVENTS_ALL: &str = events!("e.id < $1 AND e.id >= $2", "e.id DESC", "$9");

/// Where a page of [`EVENTS_BY_KEY`] ends. The creation is the oldest event of a key.
pub const END_BY_KEY: &str = scan_end!("keyward_events", "key_id", " AND type <> 'key.created'");
/// Where a page of [`EVENTS_BY_ORGANIZATION`] ends.
pub const END_BY_ORGANIZATION: &str = scan_end!("keyward_events", "organization");
/// Where a page of [`EVENTS_BY_ACTOR`] ends.
pub const END_BY_ACTOR: &str = scan_end!("keyward_events", "actor");
/// Where a page of [`EVENTS_BY_TYPE`] ends.
pub const END_BY_TYPE: &str = scan_end!("keyward_events", "type", " AND type <> 'key.created'");
/// Where a page of [`EVENTS_ALL`] ends.
pub const END_ALL: &str = scan_end!("keyward_events");

/// Writes the event `$1` of type `$2`, caused by `$3`, that is about no key, unless it exists: `$4` is the nil id. It
/// is visible to managers of keyspace `$5`, organization `$6`, instance `$7` and environment `$8`, and has the details
/// `$9`.
pub const RECORD_EVENT: &str = concat!(
    insert_event!(with details),
    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, NULL, '{}', $9) ON CONFLICT DO NOTHING"
);

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
/// Settles the claim `$2` of the delivery of event `$1`: attempted at `$3`, then state, next attempt, status, error,
/// response, and when it was settled.
pub const SETTLE_DELIVERY: &str = "UPDATE keyward_deliveries SET attempted_at = $3, state = $4, next_attempt_at = $5, \
     last_status = $6, last_error = $7, last_response = $8, settled_at = $9 \
     WHERE event_id = $1 AND state = 'pending' AND claim = $2";
/// Sets the host `$2` of the delivery of event `$1`, which was written without one.
pub const SET_DELIVERY_HOST: &str = "UPDATE keyward_deliveries SET host = $2 WHERE event_id = $1 AND host = ''";
/// Releases the claim `$2` of the delivery of event `$1` as if it had not been claimed. It is due at `$3`. The claim
/// number is incremented, so that a claim can be ended only once.
pub const RELEASE_DELIVERY: &str = "UPDATE keyward_deliveries SET attempts = attempts - 1, claim = claim + 1, \
     next_attempt_at = $3 WHERE event_id = $1 AND state = 'pending' AND claim = $2";
/// Releases the delivery of event `$1`, which is claimed until `$2`, in the same way.
pub const RELEASE_UNREAD_DELIVERY: &str = "UPDATE keyward_deliveries SET attempts = attempts - 1, claim = claim + 1, \
     next_attempt_at = $3 WHERE event_id = $1 AND state = 'pending' AND next_attempt_at = $2";
/// Ends the delivery of event `$1`, which is claimed until `$2`, at `$3`: it cannot be read.
pub const FAIL_UNREAD_DELIVERY: &str = "UPDATE keyward_deliveries SET state = 'failed', attempted_at = $3, \
     settled_at = $3, last_status = NULL, last_error = 'the event cannot be read', last_response = '' \
     WHERE event_id = $1 AND state = 'pending' AND next_attempt_at = $2";

/// At most `$6` keys that expire after the position (`$1`, `$2`) and at `$3` or before, in that order, and whether their
/// event of type `$4` with the number `$5` is written.
pub const EXPIRING_KEYS: &str = "SELECT k.id, k.expires_at, k.created_at, CAST(CASE WHEN EXISTS (SELECT 1 \
     FROM keyward_events e WHERE e.key_id = k.id AND e.type = $4 AND e.once = $5 AND e.once IS NOT NULL) \
     THEN 1 ELSE 0 END AS BIGINT) AS written FROM keyward_keys k WHERE (k.expires_at, k.id) > ($1, $2) \
     AND k.expires_at <= $3 AND k.expires_at IS NOT NULL AND k.revoked_at IS NULL ORDER BY k.expires_at, k.id LIMIT $6";

/// The ids of the newest `$4` revocations from event `$3` on, by keyspace `$1`, organization `$2`, instance `$5` and
/// environment `$6`. An id holds its time.
pub const REVOCATIONS: &str = concat!(
    "SELECT e.id FROM keyward_events e WHERE e.type = 'key.revoked' AND e.type <> 'key.created' AND e.id >= $3",
    optional_filter!("e.keyspace", "$1"),
    optional_filter!("e.organization", "$2"),
    optional_filter!("e.instance", "$5"),
    optional_filter!("e.environment", "$6"),
    " ORDER BY e.id DESC LIMIT $4"
);

/// Number of pending deliveries.
pub const PENDING: &str = "SELECT count(*) FROM keyward_deliveries WHERE state = 'pending'";
/// When the first pending delivery is due.
pub const FIRST_DUE: &str =
    "SELECT next_attempt_at FROM keyward_deliveries WHERE state = 'pending' ORDER BY next_attempt_at LIMIT 1";

/// Each statement of this file, by name. A test prepares them on both databases.
pub const ALL: &[(&str, &str)] = &[
    ("EVENTS_BY_KEY", EVENTS_BY_KEY),
    ("EVENTS_BY_ORGANIZATION", EVENTS_BY_ORGANIZATION),
    ("EVENTS_BY_ACTOR", EVENTS_BY_ACTOR),
    ("EVENTS_BY_TYPE", EVENTS_BY_TYPE),
    ("EVENTS_ALL", EVENTS_ALL),
    ("END_BY_KEY", END_BY_KEY),
    ("END_BY_ORGANIZATION", END_BY_ORGANIZATION),
    ("END_BY_ACTOR", END_BY_ACTOR),
    ("END_BY_TYPE", END_BY_TYPE),
    ("END_ALL", END_ALL),
    ("RECORD_EVENT", RECORD_EVENT),
    ("FIND_EVENT", FIND_EVENT),
    ("FIND_DELIVERY", FIND_DELIVERY),
    ("DELIVERIES_BY_KEY", DELIVERIES_BY_KEY),
    ("SETTLE_DELIVERY", SETTLE_DELIVERY),
    ("SET_DELIVERY_HOST", SET_DELIVERY_HOST),
    ("RELEASE_DELIVERY", RELEASE_DELIVERY),
    ("RELEASE_UNREAD_DELIVERY", RELEASE_UNREAD_DELIVERY),
    ("FAIL_UNREAD_DELIVERY", FAIL_UNREAD_DELIVERY),
    ("EXPIRING_KEYS", EXPIRING_KEYS),
    ("REVOCATIONS", REVOCATIONS),
    ("PENDING", PENDING),
    ("FIRST_DUE", FIRST_DUE),
];

/// Returns the statements whose index fits a query best: the narrowest filter leads.
pub fn events_for(query: &EventQuery) -> Listing<'_> {
    let EventQuery { keyspace, organization, instance, environment, key, kind, actor, .. } = query;
    let texts = [keyspace, organization, instance, environment, actor].iter().filter(|text| text.is_some()).count();
    let filters = texts + usize::from(key.is_some()) + usize::from(kind.is_some());
    let text = |lead| Some(Value::Text(lead));
    let (rows, end, lead) = match (key, organization, actor, kind) {
        (Some(key), ..) => (EVENTS_BY_KEY, END_BY_KEY, Some(Value::Id(key.0))),
        (None, Some(lead), ..) => (EVENTS_BY_ORGANIZATION, END_BY_ORGANIZATION, text(lead)),
        (None, None, Some(lead), _) => (EVENTS_BY_ACTOR, END_BY_ACTOR, text(lead)),
        (None, None, None, Some(kind)) if *kind != EventType::KeyCreated => {
            (EVENTS_BY_TYPE, END_BY_TYPE, text(kind.name()))
        }
        _ => (EVENTS_ALL, END_ALL, None),
    };
    Listing { rows, end, is_exact: filters == usize::from(lead.is_some()), lead }
}
