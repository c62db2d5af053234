-- What an event says beside the key: for events that are about no key, whose key_id is the nil UUID, all that they say.
-- JSON, an object of texts.
ALTER TABLE keyward_events ADD COLUMN details TEXT NOT NULL DEFAULT '{}';

-- For the count of an organization's live keys, where its keyspace bounds it. Keys without an organization have no such
-- bound.
CREATE INDEX keyward_keys_live ON keyward_keys (organization, keyspace, expires_at)
    WHERE revoked_at IS NULL AND organization <> '';
