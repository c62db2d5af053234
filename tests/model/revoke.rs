//! Revoke, the clean-up of dead rows, failover, and time.

use crate::protocol::Protocol;
use crate::rules::Rule;
use crate::state::{Revoke, State, Watch};

impl Protocol {
    /// The Revoke of a key commits. Broken variants take a step before it.
    pub fn revoke_commits(&self, state: &mut State, key: usize) -> Option<()> {
        let next = state.db.revision + 1;
        let (revision, revoke) = match state.revokes[key] {
            Revoke::Idle if !self.keeps(Rule::RevisionsInCommitOrder) => {
                state.db.revision = next;
                state.revokes[key] = Revoke::Numbered(next);
                return Some(());
            }
            Revoke::Idle if !self.keeps(Rule::WaitAfterCommit) || !self.keeps(Rule::RowsAfterCommit) => {
                state.revokes[key] = Revoke::Early { left: self.setting.wait(), rows: state.rows() };
                return Some(());
            }
            Revoke::Idle => (next, Revoke::Committed),
            Revoke::Numbered(revision) => (revision, Revoke::Committed),
            Revoke::Early { left, rows } if self.keeps(Rule::WaitAfterCommit) => (next, Revoke::Waiting { left, rows }),
            Revoke::Early { left, .. } => {
                let rows = state.rows();
                (next, Revoke::Waiting { left, rows })
            }
            _ => return None,
        };
        state.db.revoked[key] = revision;
        state.db.revision = state.db.revision.max(revision);
        state.revokes[key] = revoke;
        Some(())
    }

    /// A committed Revoke reads the replicas' rows and starts to wait. A repeated Revoke does the same.
    pub fn revoke_reads_rows(&self, state: &mut State, key: usize) -> Option<()> {
        let suspended = state.grace > 0 && self.keeps(Rule::PromiseSuspendedAfterLoss);
        if state.revokes[key] != Revoke::Committed || suspended {
            return None;
        }
        let left = if !self.keeps(Rule::WaitCoversLease) {
            self.setting.lease - 1
        } else if !self.keeps(Rule::WaitHasMargin) {
            self.setting.lease
        } else {
            self.setting.wait()
        };
        state.revokes[key] = if self.keeps(Rule::RevokeWaits) {
            let rows = state.rows();
            Revoke::Waiting { left, rows }
        } else {
            Revoke::Returned
        };
        Some(())
    }

    /// A Revoke whose wait is over returns OK.
    pub fn revoke_returns(&self, state: &mut State, key: usize) -> Option<()> {
        let Revoke::Waiting { left, rows } = state.revokes[key] else {
            return None;
        };
        let silent = state.silent(rows, state.db.revoked[key]);
        let one_answered = silent != rows && !self.keeps(Rule::RevokeWaitsForEach);
        let is_repeated = !self.keeps(Rule::RetryWaits);
        if left > 0 && silent != 0 && !one_answered && !is_repeated {
            return None;
        }
        state.revokes[key] = Revoke::Returned;
        Some(())
    }

    /// A Revoke stops waiting: the caller has to repeat it.
    pub fn revoke_gives_up(state: &mut State, key: usize) -> Option<()> {
        if !matches!(state.revokes[key], Revoke::Waiting { .. }) {
            return None;
        }
        state.revokes[key] = Revoke::Committed;
        Some(())
    }

    /// A clean-up starts to watch a row. Any replica may do it, so it belongs to none in the model.
    pub fn watch_begins(&self, state: &mut State, id: u8) -> Option<()> {
        let row = state.db.rows[usize::from(id)]?;
        let left = if self.keeps(Rule::WatchCoversLease) { self.setting.wait() } else { self.setting.lease - 1 };
        state.watch = Some(Watch { id, step: row.step, left, chosen: false });
        Some(())
    }

    /// A sub-select finds the row unchanged. Only in broken variants.
    pub fn watch_chooses(&self, state: &mut State) -> Option<()> {
        let watch = state.watch.as_mut()?;
        let row = state.db.rows[usize::from(watch.id)]?;
        if self.keeps(Rule::DeleteComparesItself) || watch.left > 0 || row.step != watch.step {
            return None;
        }
        watch.chosen = true;
        Some(())
    }

    /// A clean-up deletes the row that it watched, if the row has not changed.
    pub fn watch_deletes(&self, state: &mut State) -> Option<()> {
        let watch = state.watch.take().filter(|watch| watch.left == 0)?;
        let row = &mut state.db.rows[usize::from(watch.id)];
        let is_same = row.is_some_and(|row| row.step == watch.step);
        if is_same || watch.chosen || !self.keeps(Rule::DeleteNamesStep) {
            *row = None;
        }
        Some(())
    }

    /// The standby receives everything committed so far, and nothing later.
    pub fn replicate(state: &mut State) -> Option<()> {
        if state.failed_over || state.standby.is_some() {
            return None;
        }
        state.standby = Some(state.db);
        Some(())
    }

    /// The standby becomes the primary. Everything that it has not received is lost.
    pub fn fail_over(&self, state: &mut State) -> Option<()> {
        state.db = state.standby.take()?;
        state.failed_over = true;
        state.grace = self.setting.wait();
        for key in 0..self.setting.keys {
            if state.db.revoked[key] == 0 {
                // The revocation was acknowledged and then lost. Nothing is promised for it.
                state.revokes[key] = Revoke::Idle;
                state.verify = state.verify.filter(|verify| usize::from(verify.key) != key);
            } else if !state.returned(key) {
                state.revokes[key] = Revoke::Committed;
            }
        }
        for replica in &mut state.replicas {
            let read = replica.seen.max(replica.follower.target);
            replica.lost |= read > state.db.revision;
        }
        Some(())
    }

    /// Time passes. The clock of one replica may miss it.
    pub fn tick(&self, state: &mut State, slow: Option<usize>) -> Option<()> {
        for (r, replica) in state.replicas.iter_mut().enumerate() {
            if slow != Some(r) {
                replica.lease = replica.lease.saturating_sub(1);
                replica.follower.left = replica.follower.left.saturating_sub(1);
            }
        }
        for revoke in &mut state.revokes {
            if let Revoke::Waiting { left, .. } | Revoke::Early { left, .. } = revoke {
                *left = left.saturating_sub(1);
            }
        }
        if let Some(watch) = &mut state.watch {
            watch.left = watch.left.saturating_sub(1);
        }
        state.grace = state.grace.saturating_sub(1);
        for (age, revoked) in state.ages.iter_mut().zip(state.db.revoked) {
            if self.setting.ages && revoked != 0 {
                *age = self.setting.wait().min(*age + 1);
            }
        }
        if slow.is_some() && self.keeps(Rule::ClockCountsSleep) {
            state.slow_ticks = state.slow_ticks.checked_sub(1)?;
        }
        Some(())
    }
}
