-- The keyspaces that a service key is limited to, as a JSON list; an empty one does not limit.
ALTER TABLE keyward_keys ADD COLUMN keyspaces TEXT NOT NULL DEFAULT '[]';
