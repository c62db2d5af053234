//! The rules of the protocol, each of which can be taken away, and the sizes and hazards of an instance.

/// One rule of the protocol. A model without it must break the promise: that shows that the rule is needed, and that the
/// model is fine enough to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The follower renews, and only then reads the changes.
    RenewBeforeRead,
    /// It reads in another statement, which shows what is committed.
    ReadApart,
    /// The lease is counted from before its renewal was sent, not from its reply.
    CountBeforeSend,
    /// The follower applies what it read before it extends its lease.
    ApplyBeforeExtend,
    /// The follower applies what it read before it reports it.
    ApplyBeforeReport,
    /// Changes are read to the end, not one page for each renewal.
    ReadToTheEnd,
    /// A renewal that matched no row makes the replica join anew.
    RenewalFindsItsRow,
    /// A renewal that does not show on the other connection is not committed, and extends nothing.
    RenewalShows,
    /// Nor does a join whose row does not show.
    JoinShows,
    /// Verify checks the lease, and only then reads the entry.
    LeaseBeforeEntry,
    /// Verify reads the clock itself, rather than a flag that a timer clears.
    VerifyReadsClock,
    /// The clock goes on while the machine sleeps.
    ClockCountsSleep,
    /// A removed entry fences the look-ups in flight.
    RemoveFences,
    /// A cleared cache fences the look-ups in flight.
    ClearFences,
    /// A Verify takes its row only from a statement sent after it began.
    OwnStatement,
    /// A Verify that waits does not use a row that was fenced meanwhile.
    WaiterHeedsFence,
    /// Look-ups go to the primary.
    LookUpsOnPrimary,
    /// Revoke waits for the replicas.
    RevokeWaits,
    /// Revoke waits for each of them, not for the first.
    RevokeWaitsForEach,
    /// Revoke waits out a silent replica for no less than its lease.
    WaitCoversLease,
    /// Revoke adds a margin to it, since clocks differ in rate.
    WaitHasMargin,
    /// Revoke counts its wait from after its commit.
    WaitAfterCommit,
    /// Revoke reads the rows after its commit.
    RowsAfterCommit,
    /// A repeated Revoke waits as the first one did.
    RetryWaits,
    /// Revisions grow in the order of the commits.
    RevisionsInCommitOrder,
    /// A join takes an id that was never used.
    JoinTakesNewId,
    /// A join has its row in place before it clears the cache.
    InsertBeforeClear,
    /// A join clears the cache.
    JoinClears,
    /// A join reads the revision before it clears the cache.
    RevisionBeforeClear,
    /// A join clears the cache before it extends its lease.
    ClearBeforeExtend,
    /// A replica that leaves stops answering from memory before it deletes its row.
    StopBeforeDelete,
    /// A clean-up watches a row for no less than its lease.
    WatchCoversLease,
    /// A clean-up deletes the row only at the step that it watched.
    DeleteNamesStep,
    /// A clean-up compares the step in the row that it deletes, not in a sub-select.
    DeleteComparesItself,
    /// A step that went backwards makes the replica join anew.
    BackwardStepRejoins,
    /// A replica whose last change is not in the database any more joins anew.
    LostChangeRejoins,
    /// It knows the change by its identity, not by its number, which may have been given again.
    LostChangeIsIdentified,
    /// No two renewals of a row write the same step, whatever became of the first.
    StepsAreNotReused,
    /// Nothing is promised of a Revoke that read the rows within a lease of a loss of history.
    PromiseRestsAfterLoss,
}

/// What can go wrong in an instance, besides time that passes and connections that break, which always can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hazard {
    /// A replica reads also outside its renewals, as if it had been notified.
    Notified,
    /// A statement whose sender gave up may still be executed, at any later moment.
    Strays,
    /// A write may be answered although it is not committed.
    Uncommitted,
    /// A replica may die, and start again with nothing.
    Death,
    /// A replica may stop cleanly.
    Leave,
    /// Rows that look dead are removed.
    CleanUp,
    /// A Revoke may give up its wait, and be repeated.
    Retry,
    /// The database may once fall back to an earlier state.
    LostHistory,
}

/// How large an instance is, and its hazards. Leases and margins are in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// How many replicas there are.
    pub replicas: usize,
    /// How many keys there are.
    pub keys: usize,
    /// How many rows of replicas the database has room for; a join waits for room.
    pub rows: u8,
    /// How long a lease is.
    pub lease: u8,
    /// What a Revoke and a clean-up wait for beyond the lease.
    pub margin: u8,
    /// How many ticks the replicas' clocks may miss, in all.
    pub slow_ticks: u8,
    /// Check also that memory never answers from a state older than a lease, whether a Revoke returned or not.
    pub ages: bool,
    /// Follow also a Verify that nothing is promised of. The promise needs none, but to see that they happen does.
    pub early_verifies: bool,
    /// Its hazards, a bit each: see `with`.
    pub hazards: u8,
}

impl Setting {
    /// One replica, one key, the shortest lease, and no hazard.
    pub const PLAIN: Self = Self {
        replicas: 1,
        keys: 1,
        rows: 2,
        lease: 1,
        margin: 0,
        slow_ticks: 0,
        ages: false,
        early_verifies: false,
        hazards: 0,
    };

    /// The same with these hazards.
    pub fn with(self, hazards: &[Hazard]) -> Self {
        let add = |set, &hazard: &Hazard| set | 1 << hazard as u8;
        Self { hazards: hazards.iter().fold(self.hazards, add), ..self }
    }

    /// Whether it has the hazard.
    pub fn has(&self, hazard: Hazard) -> bool {
        self.hazards & 1 << hazard as u8 != 0
    }

    /// How long a Revoke and a clean-up wait.
    pub fn wait(&self) -> u8 {
        self.lease + self.margin
    }
}
