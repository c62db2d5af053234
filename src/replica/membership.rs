//! One membership of this replica: the time from one join to the next, as the replica's row in the database shows it.

use std::collections::VecDeque;

use uuid::Uuid;

use super::attach::NoticeNumber;
use crate::{
    domain::key::Digest,
    store::{ReplicaRow, change_feed::ChangeBatch},
};

/// The state of one membership.
pub(super) struct Membership {
    pub id: Uuid,
    /// The step of the row, as last read or written.
    pub step: i64,
    /// The highest step that was ever sent. Every renewal takes a new number, so that a peer that watches the row never
    /// mistakes a later renewal for an earlier one.
    pub highest_sent: i64,
    /// Every change up to this revision has been applied.
    pub seen: i64,
    /// The key whose change had revision `seen`; `None` if that key was changed again before the join.
    pub last_change: Option<Digest>,
    /// The last revision that was reported.
    pub reported: i64,
    /// Applied revisions that attached clients may not be done with yet, each with the number of its notice.
    pub notices: VecDeque<(i64, NoticeNumber)>,
}

impl Membership {
    /// A membership that has just joined at revision `seen`.
    pub fn joined(id: Uuid, seen: i64, last_change: Option<Digest>) -> Self {
        Self { id, step: 0, highest_sent: 0, seen, last_change, reported: -1, notices: VecDeque::new() }
    }

    /// The last revision up to which attached clients are done, if they are done with `done`; `reported` if there is none
    /// beyond it.
    pub fn done(&mut self, done: NoticeNumber) -> i64 {
        let mut last = self.reported;
        while let Some((revision, _)) = self.notices.pop_front_if(|(_, notice)| *notice <= done) {
            last = revision;
        }
        if self.notices.is_empty() { self.seen } else { last }
    }

    /// Whether the database still contains the last applied change: at its revision, or, if its key was changed again,
    /// among the later changes. A database that lost this change assigns its revision to another change, which this
    /// replica would never read.
    pub fn recognizes(&self, batch: &ChangeBatch) -> bool {
        match (self.last_change, batch.last_seen) {
            (None, found) => found.is_none(),
            (Some(last), Some(found)) => last == found,
            (Some(last), None) => !batch.complete || batch.changes.iter().any(|(_, changed)| *changed == last),
        }
    }

    /// This replica's own row, if the database still has it.
    pub(crate) fn own_row<'a>(&self, batch: &'a ChangeBatch) -> Option<&'a ReplicaRow> {
        batch.replicas.iter().find(|row| row.id == self.id)
    }
}

/// Why a membership ended.
pub(super) enum MembershipEnd {
    /// The database has no row for it, or an older state of it. The replica must join again.
    Lost(&'static str),
    /// The service is stopping.
    Stopped,
}
