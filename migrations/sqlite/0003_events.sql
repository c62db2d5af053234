-- What happened to keys, and what is on its way to their webhooks.
--
-- An event is written in the transaction that makes the change. An event's id is a UUIDv7: its order, its time and its
-- position on a page. The event of a creation has the key's own id, and so is found by it.

CREATE TABLE keyward_events (
    id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    type TEXT NOT NULL,
    actor TEXT NOT NULL,
    key_id BLOB NOT NULL,
    keyspace TEXT NOT NULL,
    organization TEXT NOT NULL,
    instance TEXT NOT NULL,
    environment TEXT NOT NULL,
    -- What sets an event apart that may happen only once: the seconds before the expiry, or the start of a window.
    once BIGINT,
    -- The rest of the key's public record as it then was: JSON, without digest or secret.
    record TEXT NOT NULL
);

CREATE INDEX keyward_events_organization ON keyward_events (organization, id);
CREATE INDEX keyward_events_actor ON keyward_events (actor, id);
-- Creations need neither: they are found by the key's id, and most events are creations.
CREATE INDEX keyward_events_key ON keyward_events (key_id, id) WHERE type <> 'key.created';
CREATE INDEX keyward_events_type ON keyward_events (type, id) WHERE type <> 'key.created';
CREATE UNIQUE INDEX keyward_events_once ON keyward_events (key_id, type, once) WHERE once IS NOT NULL;

CREATE TRIGGER keyward_events_no_update BEFORE UPDATE ON keyward_events
BEGIN
    SELECT RAISE(ABORT, 'rows of keyward_events are never changed');
END;

-- At most one for each event, which goes to the webhook that the key has when it is sent.
CREATE TABLE keyward_deliveries (
    event_id BLOB NOT NULL PRIMARY KEY,
    key_id BLOB NOT NULL,
    -- Whom it burdens: host and port of the URL when the event happened.
    host TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    -- Attempts begun, and how many of them came before the last redelivery was asked for.
    attempts BIGINT NOT NULL DEFAULT 0,
    attempts_before BIGINT NOT NULL DEFAULT 0,
    -- While an attempt is under way: when it is given up for lost, and another worker may take the delivery.
    next_attempt_at BIGINT NOT NULL,
    attempted_at BIGINT,
    settled_at BIGINT,
    last_status BIGINT,
    last_error TEXT NOT NULL DEFAULT '',
    last_response TEXT NOT NULL DEFAULT ''
);

CREATE INDEX keyward_deliveries_due ON keyward_deliveries (next_attempt_at) WHERE state = 'pending';
CREATE INDEX keyward_deliveries_key ON keyward_deliveries (key_id, event_id);

-- For those who look for keys that are about to expire.
CREATE INDEX keyward_keys_expiry ON keyward_keys (expires_at, id) WHERE expires_at IS NOT NULL AND revoked_at IS NULL;
