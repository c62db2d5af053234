//! What the database, the replicas and a Revoke remember. Small numbers all of it, since the checker keeps millions.

/// Room for replicas in a state.
pub const REPLICAS: usize = 2;
/// Room for keys in a state.
pub const KEYS: usize = 2;
/// Room for rows of replicas in a state.
pub const ROWS: usize = 3;

/// The row of a replica.
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
    /// The last revision that was given.
    pub revision: u8,
    /// For each key the revision of its revocation; zero while it is good.
    pub revoked: [u8; KEYS],
    /// The replicas' rows.
    pub rows: [Option<Row>; ROWS],
}

/// A look-up of a key, after its statement has read the row. A row that was revoked is not kept: it fills nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Load {
    /// None is in flight.
    #[default]
    None,
    /// It read a good row.
    Good,
    /// It read a good row, and a change was applied or the cache was cleared since then.
    Fenced,
}

/// What a follower is busy with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// Nothing.
    #[default]
    Rest,
    /// Renewing the lease.
    Renewal,
    /// Reading the changes because it was notified.
    Notified,
    /// Joining, for the first time or anew.
    Join,
    /// Stopping cleanly.
    Leave,
}

/// Where a follower is in its program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Follower {
    /// The program.
    pub program: Program,
    /// Which of the program's acts is next.
    pub at: u8,
    /// How much of the lease that is being asked for is left, counted from before it was asked for.
    pub left: u8,
    /// The keys whose changes were read and are not applied yet, a bit each.
    pub changed: u8,
    /// The revision up to which changes were read.
    pub target: u8,
}

/// One replica. A dead one is in the default state: it may start again, or never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replica {
    /// Which row is its own.
    pub id: Option<u8>,
    /// The step that it believes its row to have.
    pub step: u8,
    /// The revision up to which it has applied the changes.
    pub seen: u8,
    /// The last change that it read was lost with the database's history. It cannot see this, but it can look.
    pub lost: bool,
    /// How long it may still answer from memory.
    pub lease: u8,
    /// What a timer that clears a flag would say about the lease.
    pub flag: bool,
    /// Its follower.
    pub follower: Follower,
    /// The keys that its memory holds to be good. Revoked ones need no entry here: revocation is for ever.
    pub cached: [bool; KEYS],
    /// Its look-ups in flight.
    pub loads: [Load; KEYS],
}

/// The Revoke of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revoke {
    /// Not begun.
    #[default]
    Idle,
    /// It took its revision from a sequence, and is not committed. Broken variants only.
    Numbered(u8),
    /// It began to wait for `rows`, and is not committed. Broken variants only.
    Early {
        /// What is left of its wait.
        left: u8,
        /// The rows that it waits for, a bit each.
        rows: u8,
    },
    /// It is committed; it has not read the rows, or gave up its wait.
    Committed,
    /// It waits.
    Waiting {
        /// What is left of its wait.
        left: u8,
        /// The rows that it waits for, a bit each.
        rows: u8,
    },
    /// It returned OK.
    Returned,
}

/// A Verify that is between its two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Verify {
    /// On which replica.
    pub replica: u8,
    /// Of which key.
    pub key: u8,
    /// What it breaks if it answers VALID from memory.
    pub breaks: Option<Broken>,
}

/// A statement whose sender gave up, still on its way to the database.
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
    /// The row that it is about.
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
    /// How long it must still be seen unchanged.
    pub left: u8,
    /// The sub-select of a broken delete has chosen the row.
    pub chosen: bool,
}

/// How a promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Broken {
    /// A Verify that began after the Revoke returned answered VALID.
    AfterReturn,
    /// A Verify still waiting when its replica applied the revocation answered VALID.
    AfterApply,
    /// A Verify that began a lease after the commit answered VALID.
    OlderThanLease,
}

/// Everything at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    /// The primary.
    pub db: Database,
    /// An earlier state of the primary, which a standby has.
    pub standby: Option<Database>,
    /// The primary has failed, and the standby has taken its place.
    pub failed_over: bool,
    /// How much longer nothing is promised of a Revoke that reads the rows.
    pub grace: u8,
    /// The replicas.
    pub replicas: [Replica; REPLICAS],
    /// The Revoke of each key.
    pub revokes: [Revoke; KEYS],
    /// How long ago each revocation was committed, up to the longest wait.
    pub ages: [u8; KEYS],
    /// One Verify.
    pub verify: Option<Verify>,
    /// One stray statement.
    pub stray: Option<Stray>,
    /// One clean-up.
    pub watch: Option<Watch>,
    /// How many ticks clocks may still miss.
    pub slow_ticks: u8,
    /// What must never be set.
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

    /// The rows that there are, a bit each.
    pub fn rows(&self) -> u8 {
        (0..ROWS).fold(0, |rows, id| rows | u8::from(self.db.rows[id].is_some()) << id)
    }

    /// Of these rows, those that still are there and have not reported the revision.
    pub fn silent(&self, rows: u8, revision: u8) -> u8 {
        (0..ROWS).fold(0, |silent, id| {
            let is_silent = rows & 1 << id != 0 && self.db.rows[id].is_some_and(|row| row.seen < revision);
            silent | u8::from(is_silent) << id
        })
    }
}
