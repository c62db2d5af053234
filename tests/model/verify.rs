//! Verify and its look-ups.

use crate::protocol::Protocol;
use crate::rules::Rule;
use crate::state::{Broken, Database, Load, State, Verify};

impl Protocol {
    /// The statement of a look-up reads the row of a key. Each Verify that waits for it began before it was sent. The
    /// moment of sending makes no difference, so it is sent and executed in one step.
    pub fn load(&self, state: &mut State, r: usize, key: usize, db: &Database) -> Option<()> {
        let cached = state.replicas[r].cached[key] && self.holds_lease(state, r);
        let load = &mut state.replicas[r].loads[key];
        if cached || *load != Load::None || db.revoked[key] != 0 {
            return None;
        }
        *load = Load::Good;
        if state.returned(key) {
            state.broken = Some(Broken::AfterReturn);
        }
        Some(())
    }

    /// A look-up answers the Verifies that wait for it, and fills the cache.
    pub fn land(&self, state: &mut State, r: usize, key: usize) -> Option<()> {
        let revoked = state.db.revoked[key];
        let returned = state.returned(key);
        let replica = &mut state.replicas[r];
        match std::mem::take(&mut replica.loads[key]) {
            Load::None => return None,
            Load::Good => {
                replica.cached[key] = true;
                // In the broken variant, a Verify that has just begun joins a statement that was sent long ago.
                if returned && !self.keeps(Rule::OwnStatement) {
                    state.broken = Some(Broken::AfterReturn);
                }
            }
            Load::Fenced => {
                // Nothing is cached, and the waiting Verifies look up again.
                let applied = revoked != 0 && replica.seen >= revoked;
                if applied && !self.keeps(Rule::WaiterHeedsFence) {
                    state.broken = Some(Broken::AfterApply);
                }
            }
        }
        Some(())
    }

    /// A Verify takes the first of its two steps. A Verify without a lease is a look-up, see `load`.
    pub fn verify_begins(&self, state: &mut State, r: usize, key: usize) -> Option<()> {
        let breaks = if state.returned(key) {
            Some(Broken::AfterReturn)
        } else if self.setting.ages && state.ages[key] == self.setting.wait() {
            Some(Broken::OlderThanLease)
        } else {
            None
        };
        let continues =
            if self.keeps(Rule::LeaseBeforeEntry) { self.holds_lease(state, r) } else { state.replicas[r].cached[key] };
        let is_followed = breaks.is_some() || self.setting.early_verifies;
        if state.verify.is_some() || !is_followed || !continues {
            return None;
        }
        state.verify = Some(Verify { replica: u8::try_from(r).ok()?, key: u8::try_from(key).ok()?, breaks });
        Some(())
    }

    /// A Verify takes its second step, and answers VALID from the cache if both steps allow it.
    pub fn verify_ends(&self, state: &mut State) -> Option<()> {
        let verify = state.verify.take()?;
        if self.answers_valid(state, verify) {
            state.broken = verify.breaks;
        }
        Some(())
    }

    /// Whether a Verify answers VALID if it takes its second step now.
    pub fn answers_valid(&self, state: &State, verify: Verify) -> bool {
        let r = usize::from(verify.replica);
        if self.keeps(Rule::LeaseBeforeEntry) {
            state.replicas[r].cached[usize::from(verify.key)]
        } else {
            self.holds_lease(state, r)
        }
    }

    /// The timer of a broken variant clears the flag, possibly late.
    pub fn timer_fires(state: &mut State, r: usize) -> Option<()> {
        let replica = &mut state.replicas[r];
        if !replica.flag || replica.lease > 0 {
            return None;
        }
        replica.flag = false;
        Some(())
    }

    /// Whether a Verify on this replica finds that the lease holds.
    fn holds_lease(&self, state: &State, r: usize) -> bool {
        let replica = &state.replicas[r];
        if self.keeps(Rule::VerifyReadsClock) { replica.lease > 0 } else { replica.flag }
    }
}
