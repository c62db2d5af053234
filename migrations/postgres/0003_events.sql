-- What happened to keys, and what is on its way to their webhooks.
--
-- An event is written by the statement that makes the change, so each index here is paid by every such statement. An
-- event's id is a UUIDv7: its order, its time and its position on a page. The event of a creation has the key's own id,
-- and so is found by it.

CREATE TABLE keyward_events (
    id UUID PRIMARY KEY,
    type TEXT COLLATE "C" NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    key_id UUID NOT NULL,
    keyspace TEXT COLLATE "C" NOT NULL,
    organization TEXT COLLATE "C" NOT NULL,
    instance TEXT COLLATE "C" NOT NULL,
    environment TEXT COLLATE "C" NOT NULL,
    -- What sets an event apart that may happen only once: the seconds before the expiry, or the start of a window.
    once BIGINT,
    -- The rest of the key's public record as it then was: JSON, without digest or secret.
    record TEXT COLLATE "C" NOT NULL
);

CREATE INDEX keyward_events_organization ON keyward_events (organization, id);
CREATE INDEX keyward_events_actor ON keyward_events (actor, id);
-- Creations need neither: they are found by the key's id, and most events are creations.
CREATE INDEX keyward_events_key ON keyward_events (key_id, id) WHERE type <> 'key.created';
CREATE INDEX keyward_events_type ON keyward_events (type, id) WHERE type <> 'key.created';
CREATE UNIQUE INDEX keyward_events_once ON keyward_events (key_id, type, once) WHERE once IS NOT NULL;

CREATE FUNCTION keyward_refuse_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of keyward_events are never changed'
        USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER keyward_events_no_update BEFORE UPDATE ON keyward_events
    FOR EACH STATEMENT EXECUTE FUNCTION keyward_refuse_update();

-- At most one for each event, which goes to the webhook that the key has when it is sent. No foreign key: checking it
-- would cost each creation a look-up and a lock.
CREATE TABLE keyward_deliveries (
    event_id UUID PRIMARY KEY,
    key_id UUID NOT NULL,
    -- Whom it burdens: host and port of the URL when the event happened.
    host TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    -- Attempts begun, and how many of them came before the last redelivery was asked for.
    attempts BIGINT NOT NULL DEFAULT 0,
    attempts_before BIGINT NOT NULL DEFAULT 0,
    -- While an attempt is under way: when it is given up for lost, and another worker may take the delivery.
    next_attempt_at BIGINT NOT NULL,
    attempted_at BIGINT,
    settled_at BIGINT,
    last_status BIGINT,
    last_error TEXT COLLATE "C" NOT NULL DEFAULT '',
    last_response TEXT COLLATE "C" NOT NULL DEFAULT ''
);

CREATE INDEX keyward_deliveries_due ON keyward_deliveries (next_attempt_at) WHERE state = 'pending';
CREATE INDEX keyward_deliveries_key ON keyward_deliveries (key_id, event_id);

-- For those who look for keys that are about to expire.
CREATE INDEX keyward_keys_expiry ON keyward_keys (expires_at, id) WHERE expires_at IS NOT NULL AND revoked_at IS NULL;
