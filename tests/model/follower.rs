//! A replica's follower: join, renew, read, apply, extend, report, leave.

use crate::protocol::Protocol;
use crate::rules::Rule;
use crate::state::{Database, Follower, Load, Program, Replica, Revoke, Row, State, Stray};

/// One act of a follower. Between two acts anything may happen, and any time may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// Read the clock from which the lease counts. Starting a program reads it, so only broken variants have this act.
    ReadClock,
    /// Compare-and-set the step of its row.
    Renew,
    /// Insert its row.
    Insert,
    /// Read its row and the changes, or, in a join, the current revision.
    Read,
    /// Apply one of the changes that were read.
    Apply,
    /// Clear the cache.
    Clear,
    /// Extend its own lease.
    Extend,
    /// Write the applied revision into its row.
    Report,
    /// Stop answering from the cache.
    Stop,
    /// Delete its row.
    Delete,
}

impl Act {
    /// Whether the act is a database statement, which may fail or remain unanswered.
    pub fn is_statement(self) -> bool {
        matches!(self, Self::Renew | Self::Insert | Self::Read | Self::Report | Self::Delete)
    }
}

impl Protocol {
    /// The acts of a program, in the order that the rules determine.
    pub fn acts(&self, program: Program) -> &'static [Act] {
        use Act::{Apply, Clear, Delete, Extend, Insert, Read, ReadClock, Renew, Report, Stop};
        match program {
            Program::Idle => &[],
            Program::Renewal if !self.keeps(Rule::RenewBeforeRead) => &[Read, Apply, ReadClock, Renew, Extend, Report],
            Program::Renewal if !self.keeps(Rule::ReadApart) => &[Read, Renew, Apply, Extend, Report],
            Program::Renewal if !self.keeps(Rule::ApplyBeforeExtend) => &[Renew, Read, Extend, Apply, Report],
            Program::Renewal if !self.keeps(Rule::ApplyBeforeReport) => &[Renew, Read, Report, Apply, Extend],
            Program::Renewal => &[Renew, Read, Apply, Extend, Report],
            Program::Notified if !self.keeps(Rule::ApplyBeforeReport) => &[Read, Report, Apply],
            Program::Notified => &[Read, Apply, Report],
            Program::Join if !self.keeps(Rule::InsertBeforeClear) => &[Read, Clear, ReadClock, Insert, Extend, Report],
            Program::Join if !self.keeps(Rule::ReadApart) => &[Read, Insert, Clear, Extend, Report],
            Program::Join if !self.keeps(Rule::JoinClears) => &[Insert, Read, Extend, Report],
            Program::Join if !self.keeps(Rule::RevisionBeforeClear) => &[Insert, Clear, Read, Extend, Report],
            Program::Join if !self.keeps(Rule::ClearBeforeExtend) => &[Insert, Read, Extend, Clear, Report],
            Program::Join => &[Insert, Read, Clear, Extend, Report],
            Program::Leave if !self.keeps(Rule::StopBeforeDelete) => &[Delete, Stop],
            Program::Leave => &[Stop, Delete],
        }
    }

    /// The next act of a replica's follower. If it is a statement, it counts as sent, and is executed at any later moment.
    pub fn next_act(&self, state: &State, r: usize) -> Option<Act> {
        let follower = &state.replicas[r].follower;
        self.acts(follower.program).get(usize::from(follower.at)).copied()
    }

    /// An idle follower starts a program.
    pub fn begin(&self, state: &mut State, r: usize, program: Program) -> Option<()> {
        let me = &mut state.replicas[r];
        let joins = program == Program::Join;
        if me.follower.program != Program::Idle || me.id.is_none() != joins {
            return None;
        }
        me.follower.program = program;
        if matches!(program, Program::Renewal | Program::Join) {
            me.follower.left = self.setting.lease;
        }
        if joins {
            self.unused_id(state)?;
        }
        Some(())
    }

    /// Executes the next act.
    pub fn advance(&self, state: &mut State, r: usize) -> Option<()> {
        let act = self.next_act(state, r)?;
        let me = &mut state.replicas[r];
        match act {
            Act::ReadClock => me.follower.left = self.setting.lease,
            Act::Renew => return self.renew(state, r),
            Act::Insert => {
                let id = self.unused_id(state)?;
                insert(state, id);
                state.replicas[r].id = Some(id);
                state.replicas[r].step = 0;
            }
            Act::Read => {
                self.read(state, r);
                return Some(());
            }
            Act::Apply => {
                let key = me.follower.changed.trailing_zeros() as usize;
                me.follower.changed &= me.follower.changed - 1;
                me.cached[key] = false;
                if self.keeps(Rule::RemoveFences) {
                    fence(&mut me.loads[key]);
                }
                if me.follower.changed != 0 {
                    return Some(());
                }
                me.seen = me.follower.target;
            }
            Act::Clear => {
                me.cached = Default::default();
                if self.keeps(Rule::ClearFences) {
                    me.loads.iter_mut().for_each(fence);
                }
            }
            Act::Extend => {
                me.lease = me.lease.max(me.follower.left);
                me.flag = true;
                me.follower.left = 0;
            }
            Act::Report => {
                let (id, seen) = (me.id?, me.follower.target);
                if let Some(row) = &mut state.db.rows[usize::from(id)] {
                    row.seen = seen;
                }
            }
            Act::Stop => {
                me.lease = 0;
                me.flag = false;
            }
            Act::Delete => state.db.rows[usize::from(me.id?)] = None,
        }
        self.proceed(state, r);
        Some(())
    }

    /// A write is answered with success but not committed: it ran in a transaction that was left open.
    pub fn answer_uncommitted(&self, state: &mut State, r: usize) -> Option<()> {
        match self.next_act(state, r)? {
            Act::Renew => {
                let step = self.next_step(state, r)?;
                state.replicas[r].step = step;
            }
            Act::Insert => {
                state.replicas[r].id = Some(self.unused_id(state)?);
                state.replicas[r].step = 0;
            }
            _ => return None,
        }
        self.proceed(state, r);
        Some(())
    }

    /// The follower gives up a statement. If `stray`, the statement may still be executed.
    pub fn abandon(&self, state: &mut State, r: usize, stray: bool) -> Option<()> {
        let act = self.next_act(state, r).filter(|act| act.is_statement())?;
        if stray {
            if state.stray.is_some() {
                return None;
            }
            let me = state.replicas[r];
            state.stray = Some(match act {
                Act::Renew => Stray::Renew { id: me.id?, from: me.step, to: self.next_step(state, r)? },
                Act::Insert => Stray::Insert { id: self.unused_id(state)? },
                Act::Report => Stray::Report { id: me.id?, seen: me.follower.target },
                _ => return None,
            });
        }
        let me = &mut state.replicas[r];
        match (me.follower.program, act) {
            (Program::Leave, _) => Self::die(state, r),
            // An unfinished join starts again, with another row.
            (Program::Join, Act::Insert | Act::Read) => rejoin(me),
            _ => me.follower = Follower::default(),
        }
        Some(())
    }

    /// An abandoned statement is executed.
    pub fn stray_lands(state: &mut State) -> Option<()> {
        match state.stray.take()? {
            Stray::Insert { id } => insert(state, id),
            Stray::Renew { id, from, to } => {
                let row = state.db.rows[usize::from(id)].as_mut();
                if let Some(row) = row.filter(|row| row.step == from) {
                    row.step = to;
                }
            }
            Stray::Report { id, seen } => {
                if let Some(row) = &mut state.db.rows[usize::from(id)] {
                    row.seen = seen;
                }
            }
        }
        Some(())
    }

    /// The process ends, and all its memory is lost.
    pub fn die(state: &mut State, r: usize) {
        state.replicas[r] = Replica::default();
        if let Some(verify) = state.verify
            && usize::from(verify.replica) == r
        {
            state.verify = None;
        }
    }

    fn renew(&self, state: &mut State, r: usize) -> Option<()> {
        let next = self.next_step(state, r)?;
        let me = &mut state.replicas[r];
        match &mut state.db.rows[usize::from(me.id?)] {
            Some(row) if row.step == me.step => {
                row.step = next;
                me.step = next;
            }
            _ if !self.keeps(Rule::RenewalFindsItsRow) => {}
            Some(row) if row.step > me.step || !self.keeps(Rule::BackwardStepRejoins) => {
                // An earlier, abandoned renewal was executed after all. This one was not.
                me.step = row.step;
                me.follower = Follower::default();
                return Some(());
            }
            _ => {
                rejoin(me);
                return Some(());
            }
        }
        self.proceed(state, r);
        Some(())
    }

    fn read(&self, state: &mut State, r: usize) {
        let row = state.row_of(r);
        let db = state.db;
        let me = &mut state.replicas[r];
        let program = me.follower.program;
        let lost = me.lost
            && self.keeps(Rule::LostChangeRejoins)
            && (me.seen > db.revision || self.keeps(Rule::LostChangeIsIdentified));
        if program != Program::Join && lost {
            return rejoin(me);
        }
        if program != Program::Notified && !self.keeps(Rule::CountBeforeSend) {
            me.follower.left = self.setting.lease;
        }
        let looks_at_row = match program {
            Program::Join => me.id.is_some() && self.keeps(Rule::JoinShows),
            Program::Renewal => self.keeps(Rule::RenewalShows),
            _ => false,
        };
        match row {
            _ if !looks_at_row => {}
            Some(row) if row.step == me.step => {}
            Some(row) if row.step > me.step || !self.keeps(Rule::BackwardStepRejoins) => {
                me.step = row.step;
                me.follower.left = 0;
            }
            _ => return rejoin(me),
        }
        if program == Program::Join {
            me.seen = db.revision;
            me.lost = false;
            me.follower.target = me.seen;
        } else {
            self.read_changes(me, &db);
        }
        self.proceed(state, r);
    }

    fn read_changes(&self, me: &mut Replica, db: &Database) {
        let later = |key: &usize| db.revoked[*key] > me.seen;
        let mut keys: Vec<_> = (0..self.setting.keys).filter(later).collect();
        if !self.keeps(Rule::ReadToTheEnd) {
            keys.sort_by_key(|key| db.revoked[*key]);
            keys.truncate(1);
        }
        let target = keys.iter().map(|key| db.revoked[*key]).max();
        me.follower.target = target.unwrap_or(me.seen);
        me.follower.changed = keys.iter().fold(0, |changed, key| changed | 1 << key);
    }

    /// The id of the next join.
    fn unused_id(&self, state: &State) -> Option<u8> {
        state.unused_id(self.setting.rows, self.keeps(Rule::JoinTakesNewId))
    }

    /// The step that the replica's next renewal writes.
    fn next_step(&self, state: &mut State, r: usize) -> Option<u8> {
        let replica = state.replicas[r];
        let id = replica.id?;
        if self.keeps(Rule::StepsAreNotReused) {
            u8::try_from(u32::BITS - state.steps(id).leading_zeros()).ok()
        } else {
            // These steps are not renumbered, so they are bounded here.
            Some(replica.step + 1).filter(|step| *step < 2)
        }
    }

    /// Moves on to the next act.
    fn proceed(&self, state: &mut State, r: usize) {
        state.replicas[r].follower.at += 1;
        self.skip_idle_acts(state, r);
        if state.replicas[r].follower.program == Program::Leave && self.next_act(state, r).is_none() {
            Self::die(state, r);
        } else if self.next_act(state, r).is_none() {
            state.replicas[r].follower = Follower::default();
        }
    }

    /// Skips acts that would change nothing.
    fn skip_idle_acts(&self, state: &mut State, r: usize) {
        let reported = state.row_of(r).map(|row| row.seen);
        let me = &mut state.replicas[r];
        let acts = self.acts(me.follower.program);
        while let Some(act) = acts.get(usize::from(me.follower.at)) {
            match act {
                Act::Apply if me.follower.changed == 0 => me.seen = me.follower.target,
                Act::Extend if me.follower.left == 0 => {}
                Act::Report if reported.is_none_or(|seen| seen == me.follower.target) => {}
                _ => return,
            }
            me.follower.at += 1;
        }
    }
}

/// The replica has no row that it can rely on, and must join again. Its cache stays until the join clears it.
fn rejoin(me: &mut Replica) {
    me.id = None;
    me.step = 0;
    me.follower = Follower::default();
}

fn insert(state: &mut State, id: u8) {
    state.db.rows[usize::from(id)] = Some(Row { step: 0, seen: 0 });
    for revoke in &mut state.revokes {
        // The id is reused: a Revoke that waited for its former row has seen that row disappear.
        if let Revoke::Waiting { rows, .. } | Revoke::Early { rows, .. } = revoke {
            *rows &= !(1 << id);
        }
    }
}

fn fence(load: &mut Load) {
    if *load == Load::Good {
        *load = Load::Fenced;
    }
}
