//! The state of the database, the replicas, the sessions and the Revoke of the one key. All numbers are small.

/// Maximum number of replicas in a state.
pub const REPLICAS: usize = 2;
/// Maximum number of sessions in a state.
pub const SESSIONS: usize = 2;
/// Maximum number of replicas' rows in a state.
pub const ROWS: usize = 3;
/// Length of a session's queue.
pub const QUEUE: usize = 2;

/// A replica's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// Its replica has reported the revocation.
    pub seen: bool,
    /// How long the row must stay unchanged before it counts as dead.
    pub left: u8,
}

/// The Revoke.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Revoke {
    /// Not started.
    #[default]
    Idle,
    /// Committed; the rows were not read yet.
    Committed,
    /// It waits for `rows`, one bit each, for at most `left`.
    Waiting {
        /// Remaining wait.
        left: u8,
        /// The rows.
        rows: u8,
    },
    /// It returned OK.
    Returned,
}

/// What a replica's follower does next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Step {
    /// Nothing.
    #[default]
    Idle,
    /// It has inserted or renewed its row, and reads.
    Read,
    /// It clears its own memory, for a join or for the revocation.
    Clear,
    /// It enqueues a clear or an invalidation on its sessions.
    Enqueue,
    /// It extends its own lease.
    Extend,
}

/// One replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a state")]
pub struct Replica {
    /// The process runs.
    pub up: bool,
    /// Its row.
    pub row: Option<u8>,
    /// The row of a membership that it lost, which it still has to delete.
    pub lost: Option<u8>,
    /// How long its own memory may answer.
    pub lease: u8,
    /// What the renewal or the join in progress is to extend the lease to.
    pub pending: u8,
    /// The follower.
    pub step: Step,
    /// The follower joins.
    pub joins: bool,
    /// The read of the follower showed the revocation.
    pub shown: bool,
    /// Its cache has the key as valid.
    pub cached: bool,
    /// Its memory was cleared of the revoked key.
    pub applied: bool,
    /// The invalidation was enqueued on its sessions.
    pub enqueued: bool,
    /// How long the report waits for sessions that have ended.
    pub wait: u8,
    /// Longest grant of sessions that have ended.
    pub ghosts: u8,
    /// It grants no more time.
    pub draining: bool,
}

/// A look-up at a replica, after it has read an unrevoked row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Load {
    /// None.
    #[default]
    None,
    /// It is as current as the replica's cache.
    Good,
    /// A change was applied since.
    Fenced,
    /// The position in the sequence of changes was checked. Only in a broken variant.
    Checked,
}

/// A message to a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Message {
    /// None.
    #[default]
    None,
    /// A grant of this length for the renewal in progress.
    Grant(u8),
    /// A grant for an earlier renewal.
    OldGrant,
    /// The key is valid.
    Fill,
    /// The key has changed, or all keys may have.
    Invalidate,
    /// The session drains: the client is to attach elsewhere.
    Drain,
}

/// One session: both of its ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a state")]
pub struct Session {
    /// It exists.
    pub used: bool,
    /// Its replica.
    pub replica: u8,
    /// Its stream is there. A session without one may be used until its deadline.
    pub open: bool,
    /// Client: how long the cache may answer.
    pub deadline: u8,
    /// Client: the key is cached as valid.
    pub cached: bool,
    /// Client: age of the renewal in progress.
    pub renewal_age: Option<u8>,
    /// Client: acknowledgements that are on their way.
    pub acking: u8,
    /// Client: an answer was taken from the stream, and is inserted later. Only in a broken variant.
    pub late_fill: bool,
    /// Client: an invalidation was acknowledged, and is done later. Only in a broken variant.
    pub late_clear: bool,
    /// Client: a call to any server answered that the key is valid. Only in a broken variant.
    pub remote: bool,
    /// Client: a Verify that began after the Revoke returned waits for a look-up that was sent before.
    pub joined: bool,
    /// Replica: the session is registered for invalidations.
    pub registered: bool,
    /// Replica: the session may hold the key.
    pub interest: bool,
    /// Replica: an answer was enqueued, and the interest is noted later. Only in a broken variant.
    pub late_interest: bool,
    /// Replica: the renewal in progress waits for its grant.
    pub renewal_pending: bool,
    /// Replica: how long the last grant may still run, margin included.
    pub granted: u8,
    /// Replica: a grant was enqueued, and is recorded later. Only in a broken variant.
    pub late_record: u8,
    /// Replica: acknowledgements that the report needs.
    pub needs: u8,
    /// Replica: acknowledgements that are missing.
    pub unacked: u8,
    /// Replica: how long the report waits for those.
    pub barrier: u8,
    /// Replica: the look-up.
    pub load: Load,
    /// What is on its way to the client.
    pub queue: [Message; QUEUE],
}

/// A Verify between its two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verify(pub u8);

/// The whole state at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// The replicas' rows.
    pub rows: [Option<Row>; ROWS],
    /// The Revoke.
    pub revoke: Revoke,
    /// The replicas.
    pub replicas: [Replica; REPLICAS],
    /// The sessions.
    pub sessions: [Session; SESSIONS],
    /// A Verify that began after the Revoke returned.
    pub verify: Option<Verify>,
    /// A broken session had the key cached. Only in a broken variant.
    pub carried: bool,
    /// Ticks that clocks may still miss.
    pub slow_ticks: u8,
    /// A Verify that began after the Revoke returned answered VALID. Must never be set.
    pub broken: bool,
}

impl State {
    /// Whether the Revoke was committed.
    pub fn revoked(&self) -> bool {
        self.revoke != Revoke::Idle
    }

    /// The sessions of a replica.
    pub fn sessions_of(&mut self, r: usize) -> impl Iterator<Item = &mut Session> {
        self.sessions.iter_mut().filter(move |session| session.open && usize::from(session.replica) == r)
    }
}

impl Session {
    /// Enqueues a message. False if the queue is full.
    pub fn enqueue(&mut self, message: Message) -> bool {
        let free = self.queue.iter_mut().find(|position| **position == Message::None);
        free.map(|position| *position = message).is_some()
    }

    /// Takes the message at a place of the queue.
    pub fn take(&mut self, position: usize) -> Message {
        let message = self.queue[position];
        self.queue[position..].rotate_left(1);
        self.queue[QUEUE - 1] = Message::None;
        message
    }
}
