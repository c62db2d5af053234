-- A key's own rate limit, which goes before its keyspace's: at most `rate_limit` in any span of `rate_window`
-- microseconds. Both are NULL where the keyspace's holds.
ALTER TABLE keyward_keys ADD COLUMN rate_limit BIGINT;
ALTER TABLE keyward_keys ADD COLUMN rate_window BIGINT;
