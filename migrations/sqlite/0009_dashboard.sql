-- Sessions of the dashboard, and what its lists search by.

CREATE TABLE keyward_sessions (
    -- SHA-256 of the random id in the cookie: who reads this table can take over no session.
    id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 32),
    -- Who signed in: `root`, `key:<id>` or `user:<subject>`.
    actor TEXT NOT NULL,
    -- The digest of the credential that signed in, whose verdict is taken anew on each request; empty for a person.
    digest BLOB NOT NULL DEFAULT x'',
    -- The issuer of a person, and the client that the dashboard is there.
    issuer TEXT NOT NULL DEFAULT '',
    client TEXT NOT NULL DEFAULT '',
    -- Organizations and roles as of the last token: JSON.
    organizations TEXT NOT NULL DEFAULT '{}',
    token_expires_at BIGINT,
    -- Encrypted, and bound to this row; empty if the issuer gave none.
    refresh_token BLOB NOT NULL DEFAULT x'',
    -- Until when the one that refreshes the token has the right to do so.
    refresh_claim BIGINT NOT NULL DEFAULT 0,
    -- Forms of this session that were used once and may not be used again, newest first.
    spent_forms TEXT NOT NULL DEFAULT '',
    created_at BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    -- The end if nothing happens, and the end whatever happens.
    idle_at BIGINT NOT NULL,
    ends_at BIGINT NOT NULL
);

CREATE INDEX keyward_sessions_actor ON keyward_sessions (actor, created_at);
CREATE INDEX keyward_sessions_idle ON keyward_sessions (idle_at);

-- Search by the beginning of a name, without regard to the case of ASCII letters, and by the prefix of the secret.
CREATE INDEX keyward_keys_name ON keyward_keys (lower(name), organization, id);
CREATE INDEX keyward_keys_prefix ON keyward_keys (prefix, id);
