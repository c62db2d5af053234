-- The signing secret before the last rotation, and until when it signs, too.
ALTER TABLE keyward_keys
    ADD COLUMN webhook_former_version BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN webhook_former_until BIGINT NOT NULL DEFAULT 0;
