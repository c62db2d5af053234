//! The state of a watched key, and whether the work that was admitted under it may go on.

use std::sync::{Arc, Weak};

use crate::{
    attach::memory::Memory,
    ended::{EndReason, NotWatched},
    key_facts::KeyFacts,
    reason::Reason,
};

/// The state of a watched key. All times are on the clock of leases.
#[derive(Clone)]
pub(super) enum KeyState {
    /// No session has confirmed its facts after `since`. It expires at `expires`, as far as is known.
    Uncovered { since: i64, expires: i64 },
    /// A look-up that was sent at `at` found these facts. The replica of the session with this memory sends the next
    /// change.
    Covered { facts: Arc<KeyFacts>, expires: i64, at: i64, memory: Weak<Memory> },
    /// Its work has to end, for this reason.
    Refused(Reason),
    /// The client was detached or dropped.
    Closed,
}

/// Whether work that was admitted under a key may go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It ends.
    End(Result<EndReason, NotWatched>),
    /// It goes on until the state changes or this time is reached; then decide again.
    WaitUntil(i64),
}

impl KeyState {
    /// Decides about work that was admitted for `facts` at the time `admitted`, and may go on for `grace` without a
    /// lease.
    pub(super) fn decide(&self, facts: &KeyFacts, admitted: i64, grace: i64, now: i64) -> Decision {
        let (covered_until, expires) = match self {
            Self::Refused(reason) => return Decision::End(Ok(EndReason::Refused(*reason))),
            Self::Closed => return Decision::End(Err(NotWatched::NotAttached)),
            Self::Uncovered { since, expires } => (*since, *expires),
            Self::Covered { facts: current, expires, at, memory } => {
                if let Some(reason) = facts.lost(current) {
                    return Decision::End(Ok(EndReason::Refused(reason)));
                }
                (memory.upgrade().map_or(*at, |memory| memory.deadline().max(*at)), *expires)
            }
        };
        let lost = covered_until.max(admitted).saturating_add(grace);
        if now >= expires {
            Decision::End(Ok(EndReason::Refused(Reason::Expired)))
        } else if now >= lost {
            Decision::End(Ok(EndReason::LeaseLost))
        } else {
            Decision::WaitUntil(expires.min(lost))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_facts::tests::facts;

    const NEVER: i64 = i64::MAX;

    #[test]
    fn work_ends_by_its_key_by_time_or_without_a_lease_and_by_nothing_else() {
        let (key, memory) = (facts("key_1"), Arc::new(Memory::new()));
        let covered =
            |expires, at| KeyState::Covered { facts: facts("key_1"), expires, at, memory: Arc::downgrade(&memory) };
        let decide = |state: &KeyState, grace, now| state.decide(&key, 100, grace, now);
        let (expired, lost) = (Reason::Expired, Decision::End(Ok(EndReason::LeaseLost)));
        let over = |reason| Decision::End(Ok(EndReason::Refused(reason)));
        assert_eq!(decide(&KeyState::Refused(Reason::Revoked), NEVER, 0), over(Reason::Revoked));
        assert_eq!(decide(&KeyState::Closed, NEVER, 0), Decision::End(Err(NotWatched::NotAttached)));
        let uncovered = KeyState::Uncovered { since: 200, expires: 1_000 };
        assert_eq!(decide(&uncovered, NEVER, 999), Decision::WaitUntil(1_000));
        assert_eq!(decide(&uncovered, NEVER, 1_000), over(expired));
        assert_eq!(decide(&uncovered, 50, 249), Decision::WaitUntil(250));
        assert_eq!(decide(&uncovered, 50, 250), lost);
        // Work that was admitted later has the grace period from then on.
        let since_start = KeyState::Uncovered { since: 0, expires: NEVER };
        assert_eq!(decide(&since_start, 50, 149), Decision::WaitUntil(150));
        assert_eq!(decide(&covered(NEVER, 0), NEVER, NEVER - 1), Decision::WaitUntil(NEVER));
        assert_eq!(decide(&covered(500, 0), NEVER, 500), over(expired));
        memory.extend(300);
        assert_eq!(decide(&covered(NEVER, 0), 50, 349), Decision::WaitUntil(350), "its lease, and the grace period");
        assert_eq!(decide(&covered(NEVER, 0), 50, 350), lost);
        assert_eq!(decide(&covered(NEVER, 400), 50, 449), Decision::WaitUntil(450), "confirmed after the lease");
    }
}
