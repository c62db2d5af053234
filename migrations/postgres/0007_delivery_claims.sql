-- Identifies a claim of a delivery. It only grows, so a settlement that is late never counts for a later claim. The number of
-- attempts cannot serve: a claim that is given back lowers it.
ALTER TABLE keyward_deliveries ADD COLUMN claim BIGINT NOT NULL DEFAULT 0;
