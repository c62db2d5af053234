//! The SQL about sessions of the dashboard.

/// The columns of a session, in the order of `SessionRow`.
macro_rules! session_columns {
    () => {
        "id, actor, digest, issuer, client, organizations, token_expires_at, refresh_token, created_at, last_seen_at, \
         idle_at, ends_at"
    };
}

/// Writes a session.
pub const CREATE_SESSION: &str = concat!(
    "INSERT INTO keyward_sessions (",
    session_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING"
);
/// Deletes at most `$2` sessions that ended before `$1`.
pub const DELETE_ENDED_SESSIONS: &str = "DELETE FROM keyward_sessions WHERE id IN \
     (SELECT id FROM keyward_sessions WHERE idle_at < $1 ORDER BY idle_at LIMIT $2)";
/// The session `$1`.
pub const FIND_SESSION: &str = concat!("SELECT ", session_columns!(), " FROM keyward_sessions WHERE id = $1");
/// Records that session `$1` was used at `$2`; it ends at `$3` unless it is used again.
pub const TOUCH_SESSION: &str =
    "UPDATE keyward_sessions SET last_seen_at = $2, idle_at = $3 WHERE id = $1 AND last_seen_at < $2";
/// Ends session `$1` of actor `$2`.
pub const END_SESSION: &str = "DELETE FROM keyward_sessions WHERE id = $1 AND actor = $2";
/// At most `$3` sessions of actor `$1` that are live at `$2`, newest first.
pub const SESSIONS_OF: &str = concat!(
    "SELECT ",
    session_columns!(),
    " FROM keyward_sessions WHERE actor = $1 AND idle_at > $2 AND ends_at > $2 ORDER BY created_at DESC LIMIT $3"
);
/// Claims the refresh of session `$1` at `$2` until `$3`, unless another claim holds.
pub const CLAIM_REFRESH: &str = "UPDATE keyward_sessions SET refresh_claim = $3 WHERE id = $1 AND refresh_claim < $2";
/// Writes the organizations `$3`, the token's expiry `$4` and the refresh token `$5` of session `$1`, if claim `$2` holds.
pub const FINISH_REFRESH: &str = "UPDATE keyward_sessions SET organizations = $3, token_expires_at = $4, \
     refresh_token = $5, refresh_claim = 0 WHERE id = $1 AND refresh_claim = $2";
/// Records that form `$2` of session `$1` is used, unless it was recorded before. A form has 16 characters, so 20 are
/// kept.
pub const SPEND_FORM: &str = "UPDATE keyward_sessions SET spent_forms = substr($2 || ' ' || spent_forms, 1, 340) \
     WHERE id = $1 AND spent_forms NOT LIKE '%' || $2 || '%'";

/// Each statement of this file, by name. A test prepares them on both databases.
pub const ALL: &[(&str, &str)] = &[
    ("CREATE_SESSION", CREATE_SESSION),
    ("DELETE_ENDED_SESSIONS", DELETE_ENDED_SESSIONS),
    ("FIND_SESSION", FIND_SESSION),
    ("TOUCH_SESSION", TOUCH_SESSION),
    ("END_SESSION", END_SESSION),
    ("SESSIONS_OF", SESSIONS_OF),
    ("CLAIM_REFRESH", CLAIM_REFRESH),
    ("FINISH_REFRESH", FINISH_REFRESH),
    ("SPEND_FORM", SPEND_FORM),
];
