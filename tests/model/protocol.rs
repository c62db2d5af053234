//! The protocol as a state machine: the possible actions in each state, and the property that must always hold.

use stateright::{Model, Property};

use crate::rules::{Hazard, Rule, Setting};
use crate::state::{Program, Revoke, State, Stray};
use crate::witness;

/// An instance of the protocol, possibly without some of its rules.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// Size and hazards.
    pub setting: Setting,
    /// Check what must be reachable, instead of what must never happen.
    pub witness: bool,
    /// The removed rules, one bit each, see `without`.
    pub removed: u64,
}

impl Protocol {
    /// Name of the checked property.
    pub const PROMISE: &str = "the promise holds";

    /// The whole protocol.
    pub fn new(setting: Setting) -> Self {
        Self { setting, witness: false, removed: 0 }
    }

    /// The protocol without these rules.
    pub fn without(self, rules: &[Rule]) -> Self {
        let add = |set, &rule: &Rule| set | 1 << rule as u64;
        Self { removed: rules.iter().fold(self.removed, add), ..self }
    }

    /// Whether the instance has a rule.
    pub fn keeps(&self, rule: Rule) -> bool {
        self.removed & 1 << rule as u64 == 0
    }
}

/// An action. Replicas, keys and rows are identified by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Time passes; the clock of one replica may miss it.
    Tick(Option<usize>),
    /// A follower starts a program.
    Begin(usize, Program),
    /// A follower executes its next act.
    Advance(usize),
    /// A follower's write is answered but not committed.
    AnswerUncommitted(usize),
    /// A follower gives up its statement. If `true`, the statement may still be executed later.
    Abandon(usize, bool),
    /// The abandoned statement is executed.
    StrayLands,
    /// A replica dies.
    Die(usize),
    /// The timer of a broken variant fires.
    TimerFires(usize),
    /// A look-up reads its row.
    Load(usize, usize),
    /// A look-up reads its row from the standby. Only in a broken variant.
    LoadStale(usize, usize),
    /// A look-up answers and fills the cache.
    Land(usize, usize),
    /// A Verify takes its first step.
    VerifyBegins(usize, usize),
    /// A Verify takes its second step.
    VerifyEnds,
    /// A Revoke commits.
    RevokeCommits(usize),
    /// A Revoke reads the rows.
    RevokeReadsRows(usize),
    /// A Revoke returns OK.
    RevokeReturns(usize),
    /// A Revoke stops waiting.
    RevokeGivesUp(usize),
    /// A clean-up starts to watch a row.
    WatchBegins(u8),
    /// The sub-select of a broken clean-up selects the row.
    WatchChooses,
    /// A clean-up deletes the row.
    WatchDeletes,
    /// The standby catches up.
    Replicate,
    /// The standby takes over.
    FailOver,
}

impl Protocol {
    fn actions_of_replica(&self, state: &State, r: usize, actions: &mut Vec<Action>) {
        let has = |hazard| self.setting.has(hazard);
        let replica = &state.replicas[r];
        if replica.follower.program != Program::Idle {
            actions.push(Action::Advance(r));
            // Abandoning the first act before it is executed equals not having started.
            if replica.follower.at > 0 {
                actions.push(Action::Abandon(r, false));
            }
            if has(Hazard::Strays) {
                actions.push(Action::Abandon(r, true));
            }
            if has(Hazard::Uncommitted) {
                actions.push(Action::AnswerUncommitted(r));
            }
        } else if replica.id.is_none() {
            actions.push(Action::Begin(r, Program::Join));
        } else {
            actions.push(Action::Begin(r, Program::Renewal));
            if has(Hazard::Notified) {
                actions.push(Action::Begin(r, Program::Notified));
            }
            if has(Hazard::Leave) {
                actions.push(Action::Begin(r, Program::Leave));
            }
        }
        if has(Hazard::Death) {
            actions.push(Action::Die(r));
        }
        if state.slow_ticks > 0 || !self.keeps(Rule::ClockCountsSleep) {
            actions.push(Action::Tick(Some(r)));
        }
        if !self.keeps(Rule::VerifyReadsClock) {
            actions.push(Action::TimerFires(r));
        }
        for key in 0..self.setting.keys {
            actions.push(Action::Load(r, key));
            actions.push(Action::Land(r, key));
            actions.push(Action::VerifyBegins(r, key));
            if !self.keeps(Rule::LookUpsOnPrimary) {
                actions.push(Action::LoadStale(r, key));
            }
        }
    }

    fn actions_of_revoke(&self, state: &State, key: usize, actions: &mut Vec<Action>) {
        match state.revokes[key] {
            Revoke::Idle | Revoke::Numbered(_) | Revoke::Early { .. } => {
                actions.push(Action::RevokeCommits(key));
            }
            Revoke::Committed => actions.push(Action::RevokeReadsRows(key)),
            Revoke::Waiting { .. } => {
                actions.push(Action::RevokeReturns(key));
                if self.setting.has(Hazard::Retry) {
                    actions.push(Action::RevokeGivesUp(key));
                }
            }
            Revoke::Returned => {}
        }
    }

    /// Drops what can have no effect any more and renames, so that equivalent states become equal.
    fn normalize(&self, state: &mut State) {
        if self.keeps(Rule::VerifyReadsClock) {
            for replica in &mut state.replicas {
                replica.flag = false;
            }
        }
        let steps_are_new = self.keeps(Rule::StepsAreNotReused);
        let steps_repeat = state.standby.is_some() || state.failed_over && !steps_are_new;
        if !steps_repeat {
            let step = |id: u8| state.db.rows[usize::from(id)].map(|row| row.step);
            let deletes_all = !self.keeps(Rule::DeleteNamesStep)
                || !self.keeps(Rule::DeleteComparesItself)
                || !self.keeps(Rule::JoinTakesNewId);
            state.watch = state.watch.filter(|watch| deletes_all || step(watch.id) == Some(watch.step));
            state.stray = state.stray.filter(|stray| match *stray {
                Stray::Insert { .. } => true,
                Stray::Renew { id, from, .. } => step(id) == Some(from),
                Stray::Report { id, .. } => step(id).is_some(),
            });
        }
        if steps_are_new {
            state.renumber_steps();
        }
        state.rename(self.setting.replicas, self.setting.keys);
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let slow_ticks = self.setting.slow_ticks;
        vec![State { slow_ticks, ..State::default() }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        actions.push(Action::Tick(None));
        for r in 0..self.setting.replicas {
            self.actions_of_replica(state, r, actions);
        }
        for key in 0..self.setting.keys {
            self.actions_of_revoke(state, key, actions);
        }
        if state.verify.is_some() {
            actions.push(Action::VerifyEnds);
        }
        if state.stray.is_some() {
            actions.push(Action::StrayLands);
        }
        if self.setting.has(Hazard::CleanUp) {
            // Abandoning a watch equals not having started it.
            if state.watch.is_none() {
                actions.extend((0..self.setting.rows).map(Action::WatchBegins));
            } else {
                actions.push(Action::WatchChooses);
                actions.push(Action::WatchDeletes);
            }
        }
        if self.setting.has(Hazard::LostHistory) {
            actions.push(Action::Replicate);
            actions.push(Action::FailOver);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        let s = &mut state;
        match action {
            Action::Tick(slow) => self.tick(s, slow),
            Action::Begin(r, program) => self.begin(s, r, program),
            Action::Advance(r) => self.advance(s, r),
            Action::AnswerUncommitted(r) => self.answer_uncommitted(s, r),
            Action::Abandon(r, stray) => self.abandon(s, r, stray),
            Action::StrayLands => Self::stray_lands(s),
            Action::Die(r) => {
                Self::die(s, r);
                Some(())
            }
            Action::TimerFires(r) => Self::timer_fires(s, r),
            Action::Load(r, key) => self.load(s, r, key, &last.db),
            Action::LoadStale(r, key) => self.load(s, r, key, last.standby.as_ref()?),
            Action::Land(r, key) => self.land(s, r, key),
            Action::VerifyBegins(r, key) => self.verify_begins(s, r, key),
            Action::VerifyEnds => self.verify_ends(s),
            Action::RevokeCommits(key) => self.revoke_commits(s, key),
            Action::RevokeReadsRows(key) => self.revoke_reads_rows(s, key),
            Action::RevokeReturns(key) => self.revoke_returns(s, key),
            Action::RevokeGivesUp(key) => Self::revoke_gives_up(s, key),
            Action::WatchBegins(id) => self.watch_begins(s, id),
            Action::WatchChooses => self.watch_chooses(s),
            Action::WatchDeletes => self.watch_deletes(s),
            Action::Replicate => Self::replicate(s),
            Action::FailOver => self.fail_over(s),
        }?;
        if state == *last {
            return None;
        }
        self.normalize(&mut state);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        if self.witness {
            return witness::properties(&self.setting);
        }
        vec![Property::always(Self::PROMISE, |_, state: &State| state.broken.is_none())]
    }
}
