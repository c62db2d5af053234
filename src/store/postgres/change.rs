//! How a change, its event and its delivery become one statement, which commits by itself.

/// The beginning of each statement that writes a delivery of the event `$event`, due at `$at`.
macro_rules! insert_delivery {
    ($event:literal, $at:literal) => {
        concat!(
            "INSERT INTO keyward_deliveries (event_id, key_id, host, next_attempt_at) SELECT ",
            $event,
            ", k.id, k.webhook_host, ",
            $at
        )
    };
}

/// Locks the `keyward_revision` row before the keys. The trigger would lock it after them, and then two statements that
/// change the same keys could deadlock.
macro_rules! lock_revision {
    () => {
        "WITH head AS MATERIALIZED (SELECT value FROM keyward_revision FOR UPDATE), "
    };
}

/// Completes a statement whose WITH clause changes keys and names them `k`: writes an event for each, and a delivery
/// where the key has a webhook. Inserting the events is the main statement, so its row count is the number of changes.
macro_rules! with_event {
    ($change:expr, $event:literal, $kind:literal, $actor:literal, $at:literal) => {
        with_event!(concat!($change, " RETURNING *"), all, $event, $kind, $actor, $at)
    };
    ($change:expr, all, $event:literal, $kind:literal, $actor:literal, $at:literal) => {
        concat!(
            $change,
            "), delivery AS (",
            insert_delivery!($event, $at),
            " FROM k WHERE k.webhook_url <> '') ",
            insert_event!(),
            " SELECT ",
            $event,
            ", ",
            $kind,
            ", ",
            $actor,
            ", k.id, k.keyspace, k.organization, k.instance, k.environment, NULL, ",
            key_snapshot!("json_build_object"),
            " FROM k"
        )
    };
}

pub(super) use {insert_delivery, lock_revision, with_event};
