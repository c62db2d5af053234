//! The SQL about settings: what replicas share.

/// Writes the setting `$1` with the value `$2` unless it exists.
pub const PROPOSE_SETTING: &str = "INSERT INTO keyward_settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
/// Sets the setting `$1` to `$3` if it is `$2`.
pub const EXCHANGE_SETTING: &str = "UPDATE keyward_settings SET value = $3 WHERE name = $1 AND value = $2";
/// The value of the setting `$1`.
pub const FIND_SETTING: &str = "SELECT value FROM keyward_settings WHERE name = $1";
/// Changes the setting `$1` from 0 to 1, or back.
pub const FLIP_SETTING: &str =
    "UPDATE keyward_settings SET value = CASE value WHEN '0' THEN '1' ELSE '0' END WHERE name = $1";

/// Advances the watermark `$1` to `$2`, if it is lower.
pub const ADVANCE_WATERMARK: &str =
    "UPDATE keyward_settings SET value = $2 WHERE name = $1 AND CAST(value AS BIGINT) < CAST($2 AS BIGINT)";
/// Acquires the job lease `$1` until `$2`, unless another one holds: one that ends between `$3` and `$4`.
pub const ACQUIRE_JOB_LEASE: &str = "UPDATE keyward_settings SET value = $2 WHERE name = $1 \
     AND NOT (CAST(value AS BIGINT) > $3 AND CAST(value AS BIGINT) < $4)";

/// Each statement of this file, by name. A test prepares them on both databases.
pub const ALL: &[(&str, &str)] = &[
    ("PROPOSE_SETTING", PROPOSE_SETTING),
    ("EXCHANGE_SETTING", EXCHANGE_SETTING),
    ("FIND_SETTING", FIND_SETTING),
    ("FLIP_SETTING", FLIP_SETTING),
    ("ADVANCE_WATERMARK", ADVANCE_WATERMARK),
    ("ACQUIRE_JOB_LEASE", ACQUIRE_JOB_LEASE),
];
