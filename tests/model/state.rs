//! The state of the database, the replicas and the Revokes. All numbers are small, since the checker stores millions of
//! states.

/// Maximum number of replicas in a state.
pub const REPLICAS: usize = 2;
/// Maximum number of keys in a state.
pub const KEYS: usize = 2;
/// Maximum number of replicas' rows in a state.
pub const ROWS: usize = 3;

/// A replica's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// Changed by each renewal.
    pub step: u8,
    /// The revision up to which its replica has applied the changes.
    pub seen: u8,
}

/// The committed state of the database. Ids of replicas are indexes of `rows`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Database {
    /// The last assigned revision.
    pub revision: u8,
    /// The revision of each key's revocation; zero while the key is good.
    pub revoked: [u8; KEYS],
    /// The replicas' rows.
    pub rows: [Option<Row>; ROWS],
}

/// A look-up of a key after its statement has read the row. A look-up that read a revoked row is not kept, since it never
/// caches a good key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Load {
    /// No look-up is in flight.
    #[default]
    None,
    /// The look-up read a good row.
    Good,
    /// The look-up read a good row, and since then a change was applied or the cache was cleared.
    Fenced,
}

/// What a follower is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// Nothing.
    #[default]
    Idle,
    /// Renewing the lease.
    Renewal,
    /// Reading changes after a notification.
    Notified,
    /// Joining, for the first time or again.
    Join,
    /// Stopping cleanly.
    Leave,
}

/// The progress of a follower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Follower {
    /// The program.
    pub program: Program,
    /// Index of the program's next act.
    pub at: u8,
    /// Remaining duration of the lease that is being renewed, counted from before the renewal was sent.
    pub left: u8,
    /// Keys whose changes were read but not applied yet, one bit each.
    pub changed: u8,
    /// The revision up to which changes were read.
    pub target: u8,
}

/// One replica. A dead replica is in the default state, and may start again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replica {
    /// Index of its own row.
    pub id: Option<u8>,
    /// The step that the replica last wrote or read in its row.
    pub step: u8,
    /// The revision up to which it has applied the changes.
    pub seen: u8,
    /// The last change that it read was lost with the database's history. The replica cannot read this flag; its next
    /// read detects the loss.
    pub lost: bool,
    /// How long its cache may still answer.
    pub lease: u8,
    /// The flag that a broken variant reads instead of the clock, and that a timer clears.
    pub flag: bool,
    /// Its follower.
    pub follower: Follower,
    /// Keys that are cached as good. Revoked keys are not tracked, since revocation is permanent.
    pub cached: [bool; KEYS],
    /// Its look-ups in flight.
    pub loads: [Load; KEYS],
}

/// The Revoke of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revoke {
    /// Not started.
    #[default]
    Idle,
    /// It has a revision from a sequence, and is not committed. Only in broken variants.
    Numbered(u8),
    /// It started to wait for `rows`, and is not committed. Only in broken variants.
    Early {
        /// Remaining duration of its wait.
        left: u8,
        /// The rows that it waits for, one bit each.
        rows: u8,
    },
    /// It is committed, and has not read the rows yet or has stopped waiting.
    Committed,
    /// It waits for `rows`.
    Waiting {
        /// Remaining duration of its wait.
        left: u8,
        /// The rows that it waits for, one bit each.
        rows: u8,
    },
    /// It returned OK.
    Returned,
}

/// A Verify between its two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Verify {
    /// Index of the replica.
    pub replica: u8,
    /// Index of the key.
    pub key: u8,
    /// The property that it breaks if it answers VALID from the cache.
    pub breaks: Option<Broken>,
}

/// An abandoned statement that the database may still execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stray {
    /// A join's insert.
    Insert {
        /// The row.
        id: u8,
    },
    /// A renewal.
    Renew {
        /// The row.
        id: u8,
        /// The step that it compares.
        from: u8,
        /// The step that it sets.
        to: u8,
    },
    /// A report.
    Report {
        /// The row.
        id: u8,
        /// The revision that it reports.
        seen: u8,
    },
}

impl Stray {
    /// The row that the statement refers to.
    pub fn id(self) -> u8 {
        let (Self::Insert { id } | Self::Renew { id, .. } | Self::Report { id, .. }) = self;
        id
    }
}

/// A clean-up's view of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watch {
    /// The row.
    pub id: u8,
    /// The step that it had when the watch began.
    pub step: u8,
    /// How much longer the row must stay unchanged.
    pub left: u8,
    /// The sub-select of a broken delete has selected the row.
    pub chosen: bool,
}

/// The broken property.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Broken {
    /// A Verify that began after the Revoke returned answered VALID.
    AfterReturn,
    /// A Verify still waiting when its replica applied the revocation answered VALID.
    AfterApply,
    /// A Verify that began a lease after the commit answered VALID.
    OlderThanLease,
}

/// The whole state at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    /// The primary.
    pub db: Database,
    /// An earlier state of the primary, as the standby has it.
    pub standby: Option<Database>,
    /// The standby has replaced the primary.
    pub failed_over: bool,
    /// How much longer nothing is promised for a Revoke that reads the rows.
    pub grace: u8,
    /// The replicas.
    pub replicas: [Replica; REPLICAS],
    /// The Revoke of each key.
    pub revokes: [Revoke; KEYS],
    /// Time since each revocation was committed, up to the longest wait.
    pub ages: [u8; KEYS],
    /// One Verify.
    pub verify: Option<Verify>,
    /// One abandoned statement.
    pub stray: Option<Stray>,
    /// One clean-up.
    pub watch: Option<Watch>,
    /// Number of ticks that clocks may still miss.
    pub slow_ticks: u8,
    /// The property that was broken. Must never be set.
    pub broken: Option<Broken>,
}

impl State {
    /// The row of a replica.
    pub fn row_of(&self, replica: usize) -> Option<Row> {
        self.replicas[replica].id.and_then(|id| self.db.rows[usize::from(id)])
    }

    /// Whether a Revoke of the key returned OK.
    pub fn returned(&self, key: usize) -> bool {
        self.revokes[key] == Revoke::Returned
    }

    /// The existing rows, one bit each.
    pub fn rows(&self) -> u8 {
        (0..ROWS).fold(0, |rows, id| rows | u8::from(self.db.rows[id].is_some()) << id)
    }

    /// Those of `rows` that still exist and have not reported the revision.
    pub fn silent(&self, rows: u8, revision: u8) -> u8 {
        (0..ROWS).fold(0, |silent, id| {
            let is_silent = rows & 1 << id != 0 && self.db.rows[id].is_some_and(|row| row.seen < revision);
            silent | u8::from(is_silent) << id
        })
    }
}
