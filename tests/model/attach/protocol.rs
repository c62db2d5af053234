//! The level between a replica and its clients as a state machine.

use stateright::{Model, Property};

use crate::{
    rules::{Hazard, Rule, Setting},
    state::{QUEUE, Revoke, Session, State, Step},
};

/// An instance, possibly without some of its rules.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// Size and hazards.
    pub setting: Setting,
    /// Check what must be reachable, instead of what must never happen.
    pub witness: bool,
    /// The removed rules, one bit each.
    pub removed: u64,
}

impl Protocol {
    /// Name of the checked property.
    pub const PROMISE: &str = "no Verify that began after the Revoke returned answers VALID";

    /// The whole protocol.
    pub fn new(setting: Setting) -> Self {
        Self { setting, witness: false, removed: 0 }
    }

    /// The protocol without a rule.
    pub fn without(self, rule: Rule) -> Self {
        Self { removed: self.removed | 1 << rule as u64, ..self }
    }

    /// Whether the instance has a rule.
    pub fn keeps(&self, rule: Rule) -> bool {
        self.removed & 1 << rule as u64 == 0
    }
}

/// Whose clock misses a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    /// Nobody's.
    NoClock,
    /// A replica's.
    Replica(usize),
    /// That of a session's client.
    Client(usize),
}

/// An action. Replicas, sessions and rows are identified by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Tick(Slow),
    Start(usize),
    Renew(usize),
    Notified(usize),
    Advance(usize),
    Report(usize),
    Lose(usize),
    DeleteLost(usize),
    Remove(usize),
    Leave(usize),
    Gone(usize),
    Die(usize),
    Attach(usize, usize),
    Register(usize),
    RequestGrant(usize),
    Grant(usize),
    Record(usize),
    Load(usize),
    Answer(usize),
    NoteInterest(usize),
    Deliver(usize, usize),
    CatchUp(usize),
    Acknowledge(usize),
    Break(usize),
    ClientStops(usize),
    Call(usize),
    VerifyBegins(usize),
    VerifyEnds,
    VerifyJoins(usize),
    RevokeCommits,
    RevokeApplies,
    RevokeReadsRows,
    RevokeReturns,
}

impl Protocol {
    /// Time passes. One clock may miss it.
    fn tick(&self, s: &mut State, slow: Slow) -> Option<()> {
        if slow != Slow::NoClock {
            s.slow_ticks = s.slow_ticks.checked_sub(1)?;
        }
        let down = |left: &mut u8| *left = left.saturating_sub(1);
        for (r, me) in s.replicas.iter_mut().enumerate() {
            if slow != Slow::Replica(r) {
                if !self.setting.single {
                    down(&mut me.lease);
                }
                [&mut me.pending, &mut me.wait, &mut me.ghosts].into_iter().for_each(down);
            }
        }
        for (at, session) in s.sessions.iter_mut().enumerate() {
            if slow != Slow::Replica(usize::from(session.replica)) {
                [&mut session.granted, &mut session.barrier, &mut session.late_record].into_iter().for_each(down);
            }
            if slow != Slow::Client(at) {
                down(&mut session.deadline);
                session.renewal_age = session.renewal_age.map(|age| self.setting.grant.min(age + 1));
            }
        }
        s.rows.iter_mut().flatten().for_each(|row| down(&mut row.left));
        if let Revoke::Waiting { left, .. } = &mut s.revoke {
            down(left);
        }
        Some(())
    }

    fn revoke_commits(s: &mut State) -> Option<()> {
        if s.revoke != Revoke::Idle {
            return None;
        }
        s.revoke = Revoke::Committed;
        Some(())
    }

    fn revoke_reads_rows(&self, s: &mut State) -> Option<()> {
        if s.revoke != Revoke::Committed || self.setting.single {
            return None;
        }
        let rows = (0..s.rows.len()).fold(0, |rows, id| rows | u8::from(s.rows[id].is_some()) << id);
        s.revoke = Revoke::Waiting { left: self.setting.lease + self.setting.margin, rows };
        Some(())
    }

    fn revoke_returns(&self, s: &mut State) -> Option<()> {
        let returns = match s.revoke {
            Revoke::Waiting { left, rows } => {
                let silent = |id: usize| rows & 1 << id != 0 && s.rows[id].is_some_and(|row| !row.seen);
                left == 0 || !(0..s.rows.len()).any(silent)
            }
            Revoke::Committed if self.setting.single => {
                let me = s.replicas[0];
                let waited = self.is_done(s, 0) || !self.keeps(Rule::SingleRevokeWaits);
                me.enqueued && waited
            }
            _ => false,
        };
        if !returns {
            return None;
        }
        s.revoke = Revoke::Returned;
        Some(())
    }

    /// Drops what can have no effect any more.
    fn normalize(&self, s: &mut State) {
        for session in &mut s.sessions {
            let late = session.late_clear || session.late_fill || session.remote;
            if session.used && !session.open && session.deadline == 0 && !late {
                s.carried |= session.cached && !self.keeps(Rule::SessionStartsEmpty);
                *session = Session::default();
            }
        }
        if s.verify.is_some_and(|verify| !s.sessions[usize::from(verify.0)].used) {
            s.verify = None;
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State { slow_ticks: self.setting.slow_ticks, ..State::default() }]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        if s.broken {
            return;
        }
        let has = |hazard| self.setting.has(hazard);
        actions.extend([Action::Tick(Slow::NoClock), Action::VerifyEnds]);
        actions.extend([Action::RevokeCommits, Action::RevokeReadsRows, Action::RevokeReturns]);
        if self.setting.single {
            actions.push(Action::RevokeApplies);
        }
        for r in 0..self.setting.replicas {
            actions.extend([Action::Start(r), Action::Renew(r), Action::Advance(r), Action::Report(r)]);
            for (hazard, action) in [
                (Hazard::Notified, Action::Notified(r)),
                (Hazard::Lost, Action::Lose(r)),
                (Hazard::Lost, Action::DeleteLost(r)),
                (Hazard::Leave, Action::Leave(r)),
                (Hazard::Leave, Action::Gone(r)),
                (Hazard::Death, Action::Die(r)),
            ] {
                if has(hazard) {
                    actions.push(action);
                }
            }
            if s.slow_ticks > 0 {
                actions.push(Action::Tick(Slow::Replica(r)));
            }
        }
        if has(Hazard::CleanUp) {
            actions.extend((0..s.rows.len()).map(Action::Remove));
        }
        for at in 0..self.setting.sessions {
            actions.extend((0..self.setting.replicas).map(|r| Action::Attach(at, r)));
            if !s.sessions[at].used {
                continue;
            }
            actions.extend([
                Action::Register(at),
                Action::RequestGrant(at),
                Action::Grant(at),
                Action::Record(at),
                Action::Load(at),
                Action::Answer(at),
                Action::NoteInterest(at),
                Action::CatchUp(at),
                Action::Acknowledge(at),
                Action::Break(at),
                Action::Call(at),
                Action::VerifyBegins(at),
                Action::VerifyJoins(at),
            ]);
            actions.extend((0..QUEUE).map(|position| Action::Deliver(at, position)));
            if has(Hazard::ClientStops) {
                actions.push(Action::ClientStops(at));
            }
            if s.slow_ticks > 0 {
                actions.push(Action::Tick(Slow::Client(at)));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        let s = &mut state;
        match action {
            Action::Tick(slow) => self.tick(s, slow),
            Action::Start(r) => self.start(s, r),
            Action::Renew(r) => self.renew(s, r),
            Action::Notified(r) => Self::notified(s, r),
            Action::Advance(r) => self.advance(s, r),
            Action::Report(r) => self.report(s, r),
            Action::Lose(r) => Self::lose(s, r),
            Action::DeleteLost(r) => self.delete_lost(s, r),
            Action::Remove(id) => Self::remove(s, id),
            Action::Leave(r) => self.leave(s, r),
            Action::Gone(r) => self.gone(s, r),
            Action::Die(r) => s.replicas[r].up.then(|| self.die(s, r)),
            Action::Attach(at, r) => self.attach(s, at, r),
            Action::Register(at) => self.register(s, at),
            Action::RequestGrant(at) => self.request_grant(s, at),
            Action::Grant(at) => self.grant(s, at),
            Action::Record(at) => Self::record(s, at),
            Action::Load(at) => self.load(s, at),
            Action::Answer(at) => self.answer(s, at),
            Action::NoteInterest(at) => Self::note_interest(s, at),
            Action::Deliver(at, position) => self.deliver(s, at, position),
            Action::CatchUp(at) => Self::catch_up(s, at),
            Action::Acknowledge(at) => Self::acknowledge(s, at),
            Action::Break(at) => s.sessions[at].open.then(|| self.close(s, at)),
            Action::ClientStops(at) => self.stop_client(s, at),
            Action::Call(at) => self.call(s, at),
            Action::VerifyBegins(at) => self.verify_begins(s, at),
            Action::VerifyEnds => self.verify_ends(s),
            Action::VerifyJoins(at) => self.verify_joins(s, at),
            Action::RevokeCommits => Self::revoke_commits(s),
            Action::RevokeApplies => self.revoke_applies(s),
            Action::RevokeReadsRows => self.revoke_reads_rows(s),
            Action::RevokeReturns => self.revoke_returns(s),
        }?;
        self.normalize(s);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        if !self.witness {
            return vec![Property::always(Self::PROMISE, |_, s: &State| !s.broken)];
        }
        // States that must be reachable: a model in which nothing happens would keep every promise.
        let mut properties = vec![
            Property::sometimes("a client answers from its memory", |_, s: &State| {
                s.sessions.iter().any(|session| session.deadline > 0 && session.cached)
            }),
            Property::sometimes("a client that holds the key is live while the Revoke waits", |_, s: &State| {
                let waits = matches!(s.revoke, Revoke::Waiting { .. } | Revoke::Committed);
                waits && s.sessions.iter().any(|session| session.deadline > 0 && session.cached)
            }),
            Property::sometimes("a client is live after the Revoke returned", |_, s: &State| {
                s.revoke == Revoke::Returned && s.sessions.iter().any(|session| session.deadline > 0)
            }),
            Property::sometimes("an acknowledgement lets the report go before the grant ends", |_, s: &State| {
                s.sessions.iter().any(|session| session.open && session.needs == 0 && session.barrier > 0)
                    && s.replicas[0].enqueued
            }),
            Property::sometimes("the report waits for a session that is gone", |_, s: &State| {
                s.replicas.iter().any(|me| me.enqueued && me.wait > 0)
            }),
        ];
        if self.setting.has(Hazard::Lost) {
            properties.push(Property::sometimes("a replica joins again with a session", |_, s: &State| {
                (0..s.replicas.len()).any(|r| {
                    let me = &s.replicas[r];
                    let has_session = s.sessions.iter().any(|x| x.open && usize::from(x.replica) == r && x.cached);
                    me.joins && me.step == Step::Enqueue && has_session
                })
            }));
        }
        properties
    }
}
