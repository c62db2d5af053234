-- Keys, their use, the settings, and the state with which replicas agree.
--
-- Times are unix microseconds. An empty text is none. Text compares by its bytes (BINARY): Alice and alice are two.

CREATE TABLE keyward_keys (
    id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    keyspace TEXT NOT NULL,
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    prefix TEXT NOT NULL DEFAULT '',
    organization TEXT NOT NULL DEFAULT '',
    instance TEXT NOT NULL DEFAULT '',
    environment TEXT NOT NULL DEFAULT '',
    name TEXT NOT NULL DEFAULT '',
    scopes TEXT NOT NULL DEFAULT '[]',
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    revoke_reason TEXT NOT NULL DEFAULT '',
    created_by TEXT NOT NULL DEFAULT '',
    revoked_by TEXT NOT NULL DEFAULT '',
    webhook_url TEXT NOT NULL DEFAULT '',
    webhook_version BIGINT NOT NULL DEFAULT 0,
    metadata TEXT NOT NULL DEFAULT '{}',
    revision BIGINT NOT NULL DEFAULT 0
);

CREATE UNIQUE INDEX keyward_keys_digest ON keyward_keys (digest);
CREATE INDEX keyward_keys_organization ON keyward_keys (organization, id);
CREATE INDEX keyward_keys_keyspace ON keyward_keys (keyspace, id);
CREATE INDEX keyward_keys_created_by ON keyward_keys (created_by, id);
-- Only keys that were changed since they were made.
CREATE INDEX keyward_keys_revision ON keyward_keys (revision) WHERE revision > 0;

-- Apart from the keys, so that writing down their use never touches them. Keys are never deleted.
CREATE TABLE keyward_usage (
    key_id BLOB NOT NULL PRIMARY KEY,
    last_used_at BIGINT NOT NULL,
    count BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE keyward_settings (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE keyward_revision (
    one INTEGER NOT NULL PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    value BIGINT NOT NULL
);
INSERT INTO keyward_revision (value) VALUES (0);

-- Always empty: one process owns the database. Here so that both schemas have the same tables.
CREATE TABLE keyward_replicas (
    id BLOB NOT NULL PRIMARY KEY,
    step BIGINT NOT NULL,
    lease_ms BIGINT NOT NULL,
    seen_revision BIGINT NOT NULL
);

-- The trigger's own update leaves the revision different, so it would not fire itself again even if
-- recursive_triggers were on.
CREATE TRIGGER keyward_keys_revision AFTER UPDATE ON keyward_keys
WHEN NEW.revision = OLD.revision
BEGIN
    UPDATE keyward_revision SET value = value + 1;
    UPDATE keyward_keys SET revision = (SELECT value FROM keyward_revision) WHERE id = NEW.id;
END;

CREATE TRIGGER keyward_keys_no_delete BEFORE DELETE ON keyward_keys
BEGIN
    SELECT RAISE(ABORT, 'rows of keyward_keys are never deleted: revoke the key instead');
END;
