//! A replica: its row, its lease, its follower, and what it does for its sessions.

use crate::{
    protocol::Protocol,
    rules::Rule,
    state::{Load, Message, ROWS, Replica, Revoke, Row, State, Step},
};

impl Protocol {
    /// A process starts, and joins unless one process owns the database.
    pub fn start(&self, s: &mut State, r: usize) -> Option<()> {
        if s.replicas[r].up {
            return None;
        }
        s.replicas[r].up = true;
        if self.setting.single {
            s.replicas[r].lease = u8::MAX;
            if self.keeps(Rule::StartWaits) {
                s.replicas[r].wait = self.setting.grant + self.setting.margin;
            }
        }
        Some(())
    }

    /// The follower inserts a row, or renews the one that it has.
    pub fn renew(&self, s: &mut State, r: usize) -> Option<()> {
        let me = s.replicas[r];
        if self.setting.single || !me.up || me.draining || me.step != Step::Idle {
            return None;
        }
        let left = self.setting.lease + self.setting.margin;
        let id = match me.row {
            Some(id) if s.rows[usize::from(id)].is_none() => {
                // Peers have removed it.
                s.replicas[r] = Replica { row: None, lease: 0, pending: 0, ..me };
                return Some(());
            }
            Some(id) => id,
            None => {
                let owned = |id: usize| {
                    let id = u8::try_from(id).ok();
                    s.replicas.iter().any(|replica| replica.row == id || replica.lost == id)
                };
                let waited = |id: usize| matches!(s.revoke, Revoke::Waiting { rows, .. } if rows & 1 << id != 0);
                let free = (0..ROWS).find(|&id| s.rows[id].is_none() && !owned(id) && !waited(id))?;
                u8::try_from(free).ok()?
            }
        };
        let seen = me.row.is_some() && s.rows[usize::from(id)].is_some_and(|row| row.seen);
        s.rows[usize::from(id)] = Some(Row { seen, left });
        let me = &mut s.replicas[r];
        me.joins = me.row.is_none();
        me.row = Some(id);
        me.pending = self.setting.lease;
        me.step = Step::Read;
        Some(())
    }

    /// A notification arrives: the follower reads.
    pub fn notified(s: &mut State, r: usize) -> Option<()> {
        let me = &mut s.replicas[r];
        if me.row.is_none() || me.step != Step::Idle || me.draining {
            return None;
        }
        (me.joins, me.pending, me.step) = (false, 0, Step::Read);
        Some(())
    }

    /// The follower does its next step.
    pub fn advance(&self, s: &mut State, r: usize) -> Option<()> {
        let revoked = s.revoked();
        let enqueue_first = !self.keeps(Rule::ClearBeforeEnqueue);
        let me = &mut s.replicas[r];
        match me.step {
            Step::Idle => return None,
            Step::Read => {
                me.shown = revoked;
                let work = me.joins || me.shown && !me.enqueued;
                me.step = match work {
                    false => Step::Extend,
                    true if enqueue_first => Step::Enqueue,
                    true if !self.keeps(Rule::EnqueueBeforeExtend) => Step::Extend,
                    true => Step::Clear,
                };
                if work && me.step == Step::Extend {
                    // Extended too early; the rest follows.
                    me.lease = me.lease.max(me.pending);
                    me.pending = 0;
                    me.step = Step::Clear;
                }
            }
            Step::Clear => {
                self.clear_own(s, r);
                s.replicas[r].step = if enqueue_first { Step::Extend } else { Step::Enqueue };
            }
            Step::Enqueue => {
                if !me.joins || self.keeps(Rule::JoinClearsSessions) {
                    self.enqueue_all(s, r);
                }
                let me = &mut s.replicas[r];
                me.enqueued |= me.shown;
                me.step = if enqueue_first { Step::Clear } else { Step::Extend };
            }
            Step::Extend => {
                me.lease = me.lease.max(me.pending);
                (me.pending, me.joins, me.step) = (0, false, Step::Idle);
            }
        }
        Some(())
    }

    /// Clears the replica's cache and fences look-ups in flight.
    #[expect(clippy::unused_self, reason = "called like the other steps")]
    fn clear_own(&self, s: &mut State, r: usize) {
        let me = &mut s.replicas[r];
        me.cached = false;
        me.applied |= me.shown;
        for session in s.sessions_of(r) {
            if session.load == Load::Good {
                session.load = Load::Fenced;
            }
        }
    }

    /// Enqueues an invalidation, or a clear, on every session that may hold the key.
    fn enqueue_all(&self, s: &mut State, r: usize) {
        let margin_counts = self.keeps(Rule::GhostsCount);
        let me = &mut s.replicas[r];
        if margin_counts {
            me.wait = me.wait.max(me.ghosts);
        }
        for at in 0..self.setting.sessions {
            let session = &mut s.sessions[at];
            let is_mine = session.open && usize::from(session.replica) == r;
            if !is_mine || !session.registered || !session.interest {
                continue;
            }
            if session.enqueue(Message::Invalidate) {
                session.interest = false;
                session.unacked += 1;
                session.needs = session.unacked;
                session.barrier = session.granted;
            } else if self.keeps(Rule::FullQueueEndsSession) {
                session.needs = 1;
                session.barrier = session.granted;
                self.close(s, at);
            }
        }
    }

    /// Whether every session is done with the revocation.
    #[expect(clippy::unused_self, reason = "called like the other steps")]
    pub fn is_done(&self, s: &State, r: usize) -> bool {
        let me = &s.replicas[r];
        let done = |session: &&crate::state::Session| session.needs == 0 || session.barrier == 0;
        me.enqueued
            && me.applied
            && me.wait == 0
            && s.sessions.iter().filter(|session| session.open && usize::from(session.replica) == r).all(|x| done(&x))
    }

    /// The replica reports the revocation.
    pub fn report(&self, s: &mut State, r: usize) -> Option<()> {
        let me = s.replicas[r];
        let ready = if self.keeps(Rule::ReportWaits) { self.is_done(s, r) } else { me.enqueued && me.applied };
        let row = s.rows[usize::from(me.row?)].as_mut()?;
        if !ready || row.seen {
            return None;
        }
        row.seen = true;
        Some(())
    }

    /// The membership is lost: its own lease ends at once.
    pub fn lose(s: &mut State, r: usize) -> Option<()> {
        let me = &mut s.replicas[r];
        if me.lost.is_some() || me.draining {
            return None;
        }
        me.lost = Some(me.row.take()?);
        (me.lease, me.pending, me.step) = (0, 0, Step::Idle);
        Some(())
    }

    /// A replica deletes the row of the membership that it lost.
    pub fn delete_lost(&self, s: &mut State, r: usize) -> Option<()> {
        let id = usize::from(s.replicas[r].lost?);
        if self.keeps(Rule::LostRowOutlivesGrants) && self.grants(s, r) {
            return None;
        }
        s.rows[id] = None;
        s.replicas[r].lost = None;
        Some(())
    }

    /// Peers remove a row that has not changed for its lease and the margin.
    pub fn remove(s: &mut State, id: usize) -> Option<()> {
        if s.rows[id]?.left > 0 {
            return None;
        }
        s.rows[id] = None;
        for replica in &mut s.replicas {
            if replica.lost.is_some_and(|lost| usize::from(lost) == id) {
                replica.lost = None;
            }
        }
        Some(())
    }

    /// Whether a grant of this replica may still run.
    #[expect(clippy::unused_self, reason = "called like the other steps")]
    fn grants(&self, s: &State, r: usize) -> bool {
        let mine = |session: &&crate::state::Session| session.open && usize::from(session.replica) == r;
        s.replicas[r].ghosts > 0 || s.sessions.iter().filter(mine).any(|session| session.granted > 0)
    }

    /// The replica begins to leave.
    pub fn leave(&self, s: &mut State, r: usize) -> Option<()> {
        let me = &mut s.replicas[r];
        if !me.up || me.draining || me.step != Step::Idle || me.row.is_none() && !self.setting.single {
            return None;
        }
        me.draining = true;
        for session in s.sessions_of(r) {
            session.enqueue(Message::Drain);
        }
        Some(())
    }

    /// The replica has left: its own memory ends, and then its row.
    pub fn gone(&self, s: &mut State, r: usize) -> Option<()> {
        let me = s.replicas[r];
        if !me.draining || self.keeps(Rule::LeaveWaits) && self.grants(s, r) {
            return None;
        }
        if let Some(id) = me.row {
            s.rows[usize::from(id)] = None;
        }
        self.die(s, r);
        Some(())
    }

    /// The process ends, and all its memory is lost. A Revoke that it answered is repeated.
    pub fn die(&self, s: &mut State, r: usize) {
        s.replicas[r] = Replica::default();
        for session in s.sessions_of(r) {
            session.break_stream();
        }
        if self.setting.single && s.revoke != Revoke::Returned && s.revoke != Revoke::Idle {
            s.revoke = Revoke::Committed;
        }
    }

    /// Ends the stream of a session at its replica, which keeps count of the grant.
    pub fn close(&self, s: &mut State, at: usize) {
        let session = &mut s.sessions[at];
        let me = &mut s.replicas[usize::from(session.replica)];
        if self.keeps(Rule::GhostsCount) {
            me.ghosts = me.ghosts.max(session.granted);
            if session.needs > 0 {
                me.wait = me.wait.max(session.barrier);
            }
        }
        session.break_stream();
    }

    /// Where one process owns the database, the Revoke applies the change itself.
    pub fn revoke_applies(&self, s: &mut State) -> Option<()> {
        if s.revoke != Revoke::Committed || !s.replicas[0].up || s.replicas[0].enqueued {
            return None;
        }
        s.replicas[0].shown = true;
        if s.replicas[0].applied {
            self.enqueue_all(s, 0);
            s.replicas[0].enqueued = true;
        } else {
            self.clear_own(s, 0);
        }
        Some(())
    }
}
