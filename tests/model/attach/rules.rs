//! The rules of the level between a replica and its clients, each of which can be removed, and the sizes and hazards of
//! an instance.

/// One rule. A model without it must break the promise: that shows that the rule is needed, and that the model is
/// detailed enough to notice its absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A session is registered before anything is read for it.
    RegisterBeforeReading,
    /// A grant is at most what is left of the replica's own lease.
    GrantWithinLease,
    /// That lease is the one that was extended, not a renewal in progress.
    GrantWithinExtendedLease,
    /// The end of a grant is recorded together with enqueuing the grant.
    RecordWithGrant,
    /// The replica clears its own memory before it enqueues the invalidation.
    ClearBeforeEnqueue,
    /// It enqueues the invalidation before it extends its own lease.
    EnqueueBeforeExtend,
    /// The interest of a session is noted together with enqueuing the answer that fills it.
    InterestWithFill,
    /// A revision is reported only when every session is done with it.
    ReportWaits,
    /// The wait for a silent session is longer than its grant by a margin, since clocks differ in rate.
    WaitHasMargin,
    /// The grants of sessions that have ended stay counted.
    GhostsCount,
    /// A grant does not overtake an invalidation in the queue.
    GrantsInOrder,
    /// Neither does an answer.
    FillsInOrder,
    /// If the queue is full, the session is ended; a message is never dropped.
    FullQueueEndsSession,
    /// The position in the sequence of changes is checked again when a look-up answers.
    AnswerChecksSeq,
    /// That check and the enqueuing of the answer are one step.
    CheckWithEnqueue,
    /// A replica that lost its membership deletes its own row only after every grant.
    LostRowOutlivesGrants,
    /// A join enqueues a clear on every session, and only then extends.
    JoinClearsSessions,
    /// A leaving replica deletes its row only after every grant.
    LeaveWaits,
    /// Where one process owns the database, Revoke itself waits for the sessions.
    SingleRevokeWaits,
    /// There, after a restart, no Revoke returns before every grant of the previous process is over.
    StartWaits,
    /// The client counts a grant from before it requested it, not from the reply.
    CountBeforeAsking,
    /// A grant counts only for the renewal that requested it.
    GrantMatchesRenewal,
    /// The client removes the key, and only then acknowledges.
    ClearBeforeAcknowledge,
    /// Answers are inserted by the task that reads the stream.
    ReaderInserts,
    /// Verify checks the deadline, and only then reads the entry.
    DeadlineBeforeEntry,
    /// Only the session's own stream fills its cache.
    OwnStreamFills,
    /// Without a live deadline, Verify joins no look-up that was sent before.
    JoinNeedsDeadline,
    /// A new session starts with an empty cache.
    SessionStartsEmpty,
    /// A new session starts without a deadline.
    SessionStartsWithoutDeadline,
    /// A client that stops ends its deadline before it notifies the replica.
    EndBeforeStopped,
}

/// What can go wrong in an instance. Time can always pass, and a stream can always break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hazard {
    /// A replica also reads outside of its renewals, as after a notification.
    Notified,
    /// A replica may die, and start again with an empty state.
    Death,
    /// A replica may lose its membership, and join again.
    Lost,
    /// A replica may stop cleanly.
    Leave,
    /// Rows that look dead are removed.
    CleanUp,
    /// A client may stop cleanly.
    ClientStops,
}

/// The size and the hazards of an instance. Lengths are in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Number of replicas.
    pub replicas: usize,
    /// Number of sessions at the same time, broken ones that are still used included.
    pub sessions: usize,
    /// Length of a replica's lease.
    pub lease: u8,
    /// Longest grant.
    pub grant: u8,
    /// How much longer than a lease or a grant others wait.
    pub margin: u8,
    /// Number of ticks that clocks may miss in all.
    pub slow_ticks: u8,
    /// One process owns the database: no rows, no leases.
    pub single: bool,
    /// The hazards, one bit each, see `with`.
    pub hazards: u8,
}

impl Setting {
    /// One replica, one session, no hazards.
    pub const PLAIN: Self =
        Self { replicas: 1, sessions: 1, lease: 2, grant: 1, margin: 0, slow_ticks: 0, single: false, hazards: 0 };

    /// Adds hazards.
    pub fn with(self, hazards: &[Hazard]) -> Self {
        let add = |set, &hazard: &Hazard| set | 1 << hazard as u8;
        Self { hazards: hazards.iter().fold(self.hazards, add), ..self }
    }

    /// Whether the instance has a hazard.
    pub fn has(&self, hazard: Hazard) -> bool {
        self.hazards & 1 << hazard as u8 != 0
    }
}
