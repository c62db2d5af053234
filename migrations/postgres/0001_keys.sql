-- Keys, their use, the settings, and the state with which replicas agree.
--
-- Times are unix microseconds. An empty text is none. Text compares by its bytes ("C"): Alice and alice are two.

CREATE TABLE keyward_keys (
    id UUID PRIMARY KEY,
    keyspace TEXT COLLATE "C" NOT NULL,
    digest BYTEA NOT NULL CHECK (octet_length(digest) = 32),
    prefix TEXT COLLATE "C" NOT NULL DEFAULT '',
    organization TEXT COLLATE "C" NOT NULL DEFAULT '',
    instance TEXT COLLATE "C" NOT NULL DEFAULT '',
    environment TEXT COLLATE "C" NOT NULL DEFAULT '',
    name TEXT COLLATE "C" NOT NULL DEFAULT '',
    scopes TEXT COLLATE "C" NOT NULL DEFAULT '[]',
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    revoke_reason TEXT COLLATE "C" NOT NULL DEFAULT '',
    created_by TEXT COLLATE "C" NOT NULL DEFAULT '',
    revoked_by TEXT COLLATE "C" NOT NULL DEFAULT '',
    webhook_url TEXT COLLATE "C" NOT NULL DEFAULT '',
    webhook_version BIGINT NOT NULL DEFAULT 0,
    metadata TEXT COLLATE "C" NOT NULL DEFAULT '{}',
    revision BIGINT NOT NULL DEFAULT 0
);

CREATE UNIQUE INDEX keyward_keys_digest ON keyward_keys (digest);
CREATE INDEX keyward_keys_organization ON keyward_keys (organization, id);
CREATE INDEX keyward_keys_keyspace ON keyward_keys (keyspace, id);
CREATE INDEX keyward_keys_created_by ON keyward_keys (created_by, id);
-- Only keys that were changed since they were made.
CREATE INDEX keyward_keys_revision ON keyward_keys (revision) WHERE revision > 0;

-- Apart from the keys, so that writing down their use never touches them. No foreign key: checking it would lock the
-- key's row, and keys are never deleted.
CREATE TABLE keyward_usage (
    key_id UUID PRIMARY KEY,
    last_used_at BIGINT NOT NULL,
    count BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE keyward_settings (
    name TEXT COLLATE "C" PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL
);

-- One row: its lock makes the order of commits the order of revisions.
CREATE TABLE keyward_revision (
    one BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one),
    value BIGINT NOT NULL
);
INSERT INTO keyward_revision (value) VALUES (0);

-- An ordinary table: a crash empties an UNLOGGED one, and with it the knowledge of who answers from memory.
CREATE TABLE keyward_replicas (
    id UUID PRIMARY KEY,
    step BIGINT NOT NULL,
    lease_ms BIGINT NOT NULL,
    seen_revision BIGINT NOT NULL
);

-- A key or a change that was acknowledged outlives a crash of the server, whatever its default is.
CREATE FUNCTION keyward_write_durably() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('synchronous_commit') IN ('off', 'local') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER keyward_keys_durable BEFORE INSERT OR UPDATE ON keyward_keys
    FOR EACH STATEMENT EXECUTE FUNCTION keyward_write_durably();

-- Whoever changes a key holds the row of keyward_revision until it commits, so a reader that sees a revision also sees
-- every one below it.
CREATE FUNCTION keyward_next_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE keyward_revision SET value = value + 1 RETURNING value INTO NEW.revision;
    PERFORM pg_notify('keyward_changes', NEW.revision::text);
    RETURN NEW;
END
$$;

CREATE TRIGGER keyward_keys_revision BEFORE UPDATE ON keyward_keys
    FOR EACH ROW EXECUTE FUNCTION keyward_next_revision();

-- A deleted key would leave no change for replicas to follow.
CREATE FUNCTION keyward_refuse_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of keyward_keys are never deleted: revoke the key instead'
        USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER keyward_keys_no_delete BEFORE DELETE OR TRUNCATE ON keyward_keys
    FOR EACH STATEMENT EXECUTE FUNCTION keyward_refuse_delete();
