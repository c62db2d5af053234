-- A key's own rate limit, which goes before its keyspace's: at most `rate_limit` in any span of `rate_window`
-- microseconds. Both are NULL where the keyspace's holds. No CHECK: it would read the whole table under a lock, and
-- whoever reads a key refuses what is out of bounds.
ALTER TABLE keyward_keys ADD COLUMN rate_limit BIGINT, ADD COLUMN rate_window BIGINT;

-- A busy key's row here is written about once a second, and all rows of a page are often written by one statement. With
-- half of each page left free the new versions find room on it, and no index entry is made: of rows that are all
-- written again and again, 99 in 100 keep their page, against none in a table filled to the brim, which grows to three
-- times the size.
ALTER TABLE keyward_usage SET (fillfactor = 50);
