//! The rules of the protocol, each of which can be removed, and the sizes and hazards of an instance.

/// One rule of the protocol. A model without it must break the promise. That shows that the rule is needed, and that the
/// model is detailed enough to detect its absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The follower renews, and only then reads the changes.
    RenewBeforeRead,
    /// The follower reads in a separate statement, which shows what is committed.
    ReadApart,
    /// The lease is counted from before its renewal was sent, not from its reply.
    CountBeforeSend,
    /// The follower applies what it read before it extends its lease.
    ApplyBeforeExtend,
    /// The follower applies what it read before it reports it.
    ApplyBeforeReport,
    /// Changes are read to the end, not one page for each renewal.
    ReadToTheEnd,
    /// A renewal that matches no row makes the replica join again.
    RenewalFindsItsRow,
    /// A renewal that does not show on the other connection is not committed, and extends nothing.
    RenewalShows,
    /// A join whose row does not show on the other connection is not committed, and extends nothing.
    JoinShows,
    /// Verify checks the lease, and only then reads the entry.
    LeaseBeforeEntry,
    /// Verify reads the clock itself, not a flag that a timer clears.
    VerifyReadsClock,
    /// The clock keeps running while the machine is suspended.
    ClockCountsSleep,
    /// Removing an entry fences the look-ups in flight.
    RemoveFences,
    /// Clearing the cache fences the look-ups in flight.
    ClearFences,
    /// A Verify takes its row only from a statement sent after it began.
    OwnStatement,
    /// A waiting Verify does not use a row that has been fenced in the meantime.
    WaiterHeedsFence,
    /// Look-ups go to the primary.
    LookUpsOnPrimary,
    /// Revoke waits for the replicas.
    RevokeWaits,
    /// Revoke waits for each replica, not only for the first.
    RevokeWaitsForEach,
    /// Revoke waits for at least the lease of a silent replica.
    WaitCoversLease,
    /// Revoke adds a margin to the lease, since clocks differ in rate.
    WaitHasMargin,
    /// Revoke counts its wait from after its commit.
    WaitAfterCommit,
    /// Revoke reads the rows after its commit.
    RowsAfterCommit,
    /// A repeated Revoke waits like the first one.
    RetryWaits,
    /// The order of revisions is the order of commits.
    RevisionsInCommitOrder,
    /// A join takes an id that was never used.
    JoinTakesNewId,
    /// A join inserts its row before it clears the cache.
    InsertBeforeClear,
    /// A join clears the cache.
    JoinClears,
    /// A join reads the revision before it clears the cache.
    RevisionBeforeClear,
    /// A join clears the cache before it extends its lease.
    ClearBeforeExtend,
    /// A leaving replica stops answering from its cache before it deletes its row.
    StopBeforeDelete,
    /// A clean-up watches a row for at least its lease.
    WatchCoversLease,
    /// A clean-up deletes the row only at the step that it watched.
    DeleteNamesStep,
    /// A clean-up compares the step in the deleted row itself, not in a sub-select.
    DeleteComparesItself,
    /// A step that went backwards makes the replica join again.
    BackwardStepRejoins,
    /// A replica whose last applied change is missing in the database joins again.
    LostChangeRejoins,
    /// The replica recognizes that change by its identity, not by its revision, which may have been assigned again.
    LostChangeIsIdentified,
    /// No two renewals of a row write the same step, whether the first one succeeded or not.
    StepsAreNotReused,
    /// Nothing is promised for a Revoke that reads the rows within a lease after a loss of history.
    PromiseSuspendedAfterLoss,
}

/// What can go wrong in an instance. Time can always pass, and connections can always break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hazard {
    /// A replica also reads outside its renewals, as after a notification.
    Notified,
    /// An abandoned statement may still be executed, at any later moment.
    Strays,
    /// A write may be answered with success although it is not committed.
    Uncommitted,
    /// A replica may die, and start again with an empty state.
    Death,
    /// A replica may stop cleanly.
    Leave,
    /// Rows that look dead are removed.
    CleanUp,
    /// A Revoke may stop waiting, and be repeated.
    Retry,
    /// The database may fall back to an earlier state once.
    LostHistory,
}

/// The size and the hazards of an instance. Leases and margins are in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Number of replicas.
    pub replicas: usize,
    /// Number of keys.
    pub keys: usize,
    /// Maximum number of replicas' rows in the database; a join waits for a free one.
    pub rows: u8,
    /// Length of a lease.
    pub lease: u8,
    /// How much longer than the lease a Revoke and a clean-up wait.
    pub margin: u8,
    /// Number of ticks that the replicas' clocks may miss in all.
    pub slow_ticks: u8,
    /// Also check that the cache never answers from a state older than a lease, whether a Revoke returned or not.
    pub ages: bool,
    /// Also follow a Verify to which the promise does not apply. Needed only to check that such a Verify can happen.
    pub early_verifies: bool,
    /// The hazards, one bit each, see `with`.
    pub hazards: u8,
}

impl Setting {
    /// One replica, one key, the shortest lease, no hazards.
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

    /// Adds hazards.
    pub fn with(self, hazards: &[Hazard]) -> Self {
        let add = |set, &hazard: &Hazard| set | 1 << hazard as u8;
        Self { hazards: hazards.iter().fold(self.hazards, add), ..self }
    }

    /// Whether the instance has a hazard.
    pub fn has(&self, hazard: Hazard) -> bool {
        self.hazards & 1 << hazard as u8 != 0
    }

    /// How long a Revoke and a clean-up wait.
    pub fn wait(&self) -> u8 {
        self.lease + self.margin
    }
}
