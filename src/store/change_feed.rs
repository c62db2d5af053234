//! The change feed: how a follower reads changes and peers from the database, and writes its replica's own row.

use async_trait::async_trait;
use uuid::Uuid;

use super::{database::ReplicaRow, error::Result};
use crate::domain::key::Digest;

/// Maximum number of changes in one read. The next read continues after them.
pub const MAX_CHANGES: usize = 5_000;

/// The replicas and the changes after a revision, from one read.
#[derive(Debug, Clone, Default)]
pub struct ChangeBatch {
    /// Every replica's row, including the reader's own.
    pub replicas: Vec<ReplicaRow>,
    /// The latest revision.
    pub head: i64,
    /// The key whose last change has exactly the revision that the read began at; `None` if the key was changed again.
    pub last_seen: Option<Digest>,
    /// The keys changed after that revision, in the order of their revisions.
    pub changes: Vec<(i64, Digest)>,
    /// Whether these are all the changes.
    pub complete: bool,
}

/// The connections of a follower. It owns them: they are never from the pool, and are closed rather than used again
/// after a failure.
#[async_trait]
pub trait ChangeFeed: Send {
    /// Closes the connections and opens new ones.
    async fn connect(&mut self) -> Result<()>;

    /// Writes the row of a new replica and commits it. Then reads the current revision on the other connection, where the
    /// row must be visible.
    async fn join(&mut self, id: Uuid, lease_ms: i64) -> Result<i64>;

    /// Sets the replica's step from `step` to `next` and commits. Returns false if the row is gone or has another step.
    async fn renew(&mut self, id: Uuid, step: i64, next: i64) -> Result<bool>;

    /// Reads on another connection than [`Self::renew`] uses, so that everything it returns is committed.
    async fn read(&mut self, seen: i64) -> Result<ChangeBatch>;

    /// Reports that every change up to `seen` is applied.
    async fn report(&mut self, id: Uuid, seen: i64) -> Result<()>;

    /// Deletes a replica's row; with a step, only if the row still has it.
    async fn remove(&mut self, id: Uuid, step: Option<i64>) -> Result<()>;
}

/// The content of a database notification. It only makes a replica read before its next poll; correctness does not
/// depend on its arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notification {
    /// A key was changed.
    Change,
    /// A replica has reported applied changes.
    Seen,
    /// Notifications may have been lost.
    Lost,
}
