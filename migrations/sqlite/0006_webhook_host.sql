-- The host of webhook_url, with its port if that is not the scheme's own: attempts to one host are bounded by it. The server
-- derives it from the URL with the code that checks the URL, so all spellings of a host have the same one. It is empty where
-- a version without this column set the webhook: then a delivery gets its host when it is first claimed.
ALTER TABLE keyward_keys ADD COLUMN webhook_host TEXT NOT NULL DEFAULT '';
