//! The settings that each connection pins. A database or a role may have different defaults (`ALTER DATABASE … SET`,
//! `ALTER ROLE … SET`); what a connection sets at its start, or a transaction for itself, overrides those.
//!
//! Not pinned are `search_path`, which says where the tables are; `default_transaction_read_only`, by which an operator
//! or a provider stops all writes, and which shows as "not ready"; `synchronous_commit`, which each statement that
//! needs it sets; and what only changes how fast a statement runs.

use std::time::Duration;

/// How values are read, written and compared.
const VALUES: &[(&str, &str)] = &[
    // The follower reads digests as text.
    ("bytea_output", "hex"),
    ("standard_conforming_strings", "on"),
    ("backslash_quote", "safe_encoding"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    // Otherwise a refused row would end the connection.
    ("exit_on_error", "off"),
    // Each notice would be a message to read, and a line in the log.
    ("client_min_messages", "warning"),
    // Compiling a statement takes longer than running it. Cost settings of a role could cause every statement to be
    // compiled.
    ("jit", "off"),
];

/// How transactions begin, where each statement is one.
const TRANSACTIONS: &[(&str, &str)] = &[
    // Under another one concurrent changes would conflict and be retried.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    // A role could name a library that is missing, or that changes statements.
    ("local_preload_libraries", ""),
];

/// Timeouts other than the statement's.
const TIMEOUTS: &[&str] = &["lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"];

/// The first version that has `transaction_timeout`. Older ones refuse unknown settings.
const HAS_TRANSACTION_TIMEOUT: u32 = 170_000;

/// The settings of a connection's start. A statement that takes longer than `statement_timeout` is cancelled; none is if it
/// is zero. The version of the server is as in `server_version_num`.
pub(super) fn at_start(statement_timeout: Duration, version: Option<u32>) -> Vec<(&'static str, String)> {
    let fixed = VALUES.iter().chain(TRANSACTIONS).map(|(name, value)| (*name, (*value).to_owned()));
    let later = version.is_some_and(|version| version >= HAS_TRANSACTION_TIMEOUT).then_some("transaction_timeout");
    let unlimited = TIMEOUTS.iter().copied().chain(later).map(|name| (name, "0".to_owned()));
    let statement = ("statement_timeout", statement_timeout.as_millis().to_string());
    fixed.chain(unlimited).chain([statement]).collect()
}

/// Statements that pin the settings for one transaction: behind a transaction pooler the next one may run on another
/// connection. A replica that is paused between a statement and its COMMIT holds the statement's locks, and every other
/// writer waits for them: the idle timeout lets the server end the transaction.
pub(super) fn in_transaction(statement_timeout: Duration, version: Option<u32>) -> String {
    let timeout = statement_timeout.as_millis().to_string();
    let later = version.is_some_and(|version| version >= HAS_TRANSACTION_TIMEOUT).then_some("transaction_timeout");
    let timeouts =
        [("lock_timeout", "0"), ("statement_timeout", &*timeout), ("idle_in_transaction_session_timeout", &*timeout)];
    let settings = VALUES.iter().copied().chain(timeouts).chain(later.map(|name| (name, "0")));
    settings.map(|(name, value)| format!("SET LOCAL {name} = '{value}'; ")).collect::<Vec<_>>().concat()
}
