//! What a follower asks of the database: the replica's own row, its peers, and the changes to keys.

use async_trait::async_trait;
use uuid::Uuid;

use super::{ReplicaRow, Result};
use crate::domain::key::Digest;

/// Changes that one read gives at most; the next read goes on from there.
pub const MAX_CHANGES: usize = 5_000;

/// The state of the replicas and the changes after a revision, in one read.
#[derive(Debug, Clone, Default)]
pub struct ChangeBatch {
    /// Every replica's row, the reader's own among them.
    pub replicas: Vec<ReplicaRow>,
    /// The latest revision.
    pub head: i64,
    /// The key whose change has the very revision that was asked after; none if it was changed again since.
    pub last_seen: Option<Digest>,
    /// Changed keys after that, in the order of their revisions.
    pub changes: Vec<(i64, Digest)>,
    /// Whether these are all.
    pub complete: bool,
}

/// A follower's own way to the database: never through the pool, and closed rather than used again after a failure.
#[async_trait]
pub trait ChangeFeed: Send {
    /// Opens the connections anew.
    async fn connect(&mut self) -> Result<()>;

    /// Writes the row of a new replica, committed, and then reads the current revision on the other connection, where
    /// the row must show.
    async fn join(&mut self, id: Uuid, lease_ms: i64) -> Result<i64>;

    /// Sets the replica's step from `step` to `next`, committed. False if its row is gone or its step is another one.
    async fn renew(&mut self, id: Uuid, step: i64, next: i64) -> Result<bool>;

    /// Reads, on another connection than [`Self::renew`]'s: what it shows is committed.
    async fn read(&mut self, seen: i64) -> Result<ChangeBatch>;

    /// Tells that every change up to `seen` is applied.
    async fn report(&mut self, id: Uuid, seen: i64) -> Result<()>;

    /// Removes a row; with a step, only while it still has that one.
    async fn remove(&mut self, id: Uuid, step: Option<i64>) -> Result<()>;
}

/// What a notification tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notification {
    /// A key was changed.
    Change,
    /// A replica has applied changes.
    Seen,
    /// Notifications may have been lost.
    Lost,
}
