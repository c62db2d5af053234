//! Waits for the ends of keys.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::{
    state::{Decision, KeyState},
    watches::{KeyName, Watch, Watches},
};
use crate::{
    attach::{
        clock::{boottime, from_wall},
        tag::Tag,
    },
    ended::{EndReason, Ended, NotWatched},
    key_facts::{KeyFacts, KeyWatcher},
};

/// The longest sleep before the clock is read again: timers stand still while the machine is suspended.
const MAX_SLEEP: Duration = Duration::from_mins(1);

/// One wait for the end of a key.
pub(super) struct Waiter {
    watches: Arc<Watches>,
    watch: Arc<Watch>,
    /// None only while this is dropped.
    pub(super) state: Option<watch::Receiver<KeyState>>,
    admitted: i64,
}

impl Waiter {
    /// Begins to wait for the end of a key, for work that is admitted now.
    ///
    /// # Errors
    ///
    /// Those of [`Watches::join`].
    pub(super) fn join(
        watches: &Arc<Watches>,
        tag: Tag,
        name: &KeyName,
        expires: i64,
        now: i64,
    ) -> Result<Self, NotWatched> {
        let (watch, state) = watches.join(tag, name, expires, now)?;
        Ok(Self { watches: Arc::clone(watches), watch, state: Some(state), admitted: now })
    }

    async fn wait(mut self, facts: Arc<KeyFacts>) -> Result<EndReason, NotWatched> {
        let (grace, admitted) = (self.watches.grace, self.admitted);
        let Some(state) = &mut self.state else { return Err(NotWatched::NotAttached) };
        loop {
            let now = boottime().ok_or(NotWatched::NotAttached)?;
            let until = match state.borrow_and_update().decide(&facts, admitted, grace, now) {
                Decision::End(end) => return end,
                Decision::WaitUntil(until) => until,
            };
            let left = Duration::from_micros(u64::try_from(until - now).unwrap_or(0));
            tokio::select! {
                changed = state.changed() => changed.map_err(|_| NotWatched::NotAttached)?,
                () = sleep(left.min(MAX_SLEEP)), if until < i64::MAX => {}
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.state = None;
        self.watches.leave(&self.watch);
    }
}

/// Watches a key that an attached client has verified.
pub(in crate::attach) struct AttachedWatcher {
    pub(in crate::attach) watches: Arc<Watches>,
    pub(in crate::attach) tag: Tag,
    pub(in crate::attach) name: KeyName,
    /// When the key expires, on the clock of leases. None: only the time on the wall clock is known.
    pub(in crate::attach) expires: Option<i64>,
}

impl KeyWatcher for AttachedWatcher {
    fn watch(&self, facts: &Arc<KeyFacts>) -> Ended {
        let Some(now) = boottime() else { return Ended::not_watched(NotWatched::NotAttached) };
        let on_wall_clock = || facts.expires.map_or(i64::MAX, |time| from_wall(time, now));
        let expires = self.expires.unwrap_or_else(on_wall_clock);
        match Waiter::join(&self.watches, self.tag, &self.name, expires, now) {
            Ok(waiter) => Ended::new(waiter.wait(Arc::clone(facts))),
            Err(why) => Ended::not_watched(why),
        }
    }
}
