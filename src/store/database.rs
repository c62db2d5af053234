//! The database as a whole: what replicas share, its state, and the trait that services hold.

use async_trait::async_trait;
use uuid::Uuid;

use super::{error::Result, events::EventStore, keys::KeyStore, sessions::SessionStore};
use crate::domain::clock::Micros;

/// The setting of the installation's master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallationRow {
    /// Fingerprint of the master key in use.
    pub fingerprint: String,
    /// The master key in base64 if the database keeps it; `None` if it comes from the environment.
    pub key: Option<String>,
    /// Fingerprints of the master keys used before, oldest first.
    pub earlier: Vec<String>,
}

/// A replica's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaRow {
    /// Chosen at each join.
    pub id: Uuid,
    /// Number of its renewals.
    pub step: i64,
    /// Length of its lease in milliseconds.
    pub lease_ms: i64,
    /// The replica has applied every change up to this revision.
    pub seen_revision: i64,
}

/// Numbers of connections, for gauges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolGauge {
    /// Open connections.
    pub open: u32,
    /// Open connections that are not in use.
    pub idle: u32,
}

/// The store: the verbs about keys and events, and those about the database itself.
///
/// Each verb is one atomic business write or one read. It runs to its end even when its caller stops waiting, and is
/// bounded in time: past the bound it fails as [`StoreError::Unavailable`](super::StoreError::Unavailable), and its
/// connection is closed rather than used again.
#[async_trait]
pub trait Store: KeyStore + EventStore + SessionStore + Send + Sync + 'static {
    /// Writes the installation row if there is none, and returns the one that holds. Of concurrent calls one MUST win, and
    /// all MUST return its row (case `one_installation_wins`).
    async fn installation(&self, proposed: InstallationRow) -> Result<InstallationRow>;

    /// Replaces the installation row if it is still `from`, and returns the one that holds. Of concurrent calls one MUST
    /// win, and all MUST return its row (case `one_installation_move_wins`).
    async fn move_installation(&self, from: InstallationRow, to: InstallationRow) -> Result<InstallationRow>;

    /// Reads each replica that may be answering from memory. Always empty where one process owns the database.
    async fn replicas(&self) -> Result<Vec<ReplicaRow>>;

    /// Advances a watermark that replicas share, and returns the one that holds. A watermark MUST never go back (case
    /// `a_watermark_only_advances`).
    async fn advance_watermark(&self, name: String, to: i64) -> Result<i64>;

    /// Reads a watermark; `None` if it was never advanced.
    async fn watermark(&self, name: String) -> Result<Option<i64>>;

    /// Acquires the lease of a background job until `until`. Returns whether the caller has it. The lease only saves
    /// work: a job MUST stay correct when two replicas run it at once (case `a_job_lease_has_one_holder`).
    async fn try_acquire_job_lease(&self, name: &'static str, now: Micros, until: Micros) -> Result<bool>;

    /// Makes a round trip to the database, which must accept writes. Waits for a connection that writes.
    async fn ping(&self) -> Result<()>;

    /// Finds whether the database takes writes, within a few hundred milliseconds where one process owns it. Writes that
    /// are running do not delay the answer.
    async fn check_writes(&self) -> Result<()>;

    /// Makes a round trip to the database, which must answer reads with the current state.
    async fn check_reads(&self) -> Result<()>;

    /// Returns the current numbers of connections.
    fn pool(&self) -> PoolGauge;

    /// Returns the number of rows that could not be read and were skipped.
    fn unreadable_rows(&self) -> u64;

    /// Waits for the calls in flight, then closes every connection.
    async fn close(&self);
}
