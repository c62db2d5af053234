//! Attached clients: they hold keys in their own memory, under grants of this replica.
//!
//! The promise covers them: no Verify that starts in a client after Revoke returned answers VALID. The replica
//! therefore notifies every session of a change ([`Attachments::apply`]) after it has cleared its own memory and before
//! it extends its own lease, and reports the change only when every session is done with it ([`Attachments::done`]). A
//! session is done when it has acknowledged, or the grant that it had when it was notified, and the margin, have ended.
//! Grants of sessions that have ended stay counted. `docs/consistency.md` has the rules, and `tests/model/attach` the
//! model that needs each of them.

mod session;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

pub(crate) use self::session::{AnswerKey, Renewal, Session, SessionMessage, WatchedVerdict};
use crate::{
    domain::{
        clock::{Clock, Micros, micros},
        error::{Error, ErrorKind, Result},
        key::Digest,
    },
    replica::{
        cache::KeyCache,
        fault_injection,
        lease::{LEASE_MARGIN, Lease},
    },
};

/// Sessions of one caller.
const MAX_SESSIONS_PER_CALLER: usize = 16;
/// Messages that wait for a session's connection. A further one ends the session.
const MAX_QUEUED: usize = 4_096;

/// Longest sleep of a wait while no change has an end by time.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The bounds of attached clients.
#[derive(Debug, Clone, Copy)]
pub struct AttachRules {
    /// Longest grant.
    pub lease: Duration,
    /// Sessions at once.
    pub max_clients: usize,
}

impl Default for AttachRules {
    fn default() -> Self {
        Self { lease: Duration::from_secs(2), max_clients: 1_000 }
    }
}

/// The number of a change in the sequence of those that sessions were notified of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NoticeNumber(u64);

/// The sessions of this replica, and the changes that wait for them.
pub struct Attachments {
    clock: Arc<dyn Clock>,
    cache: Arc<KeyCache>,
    lease: Arc<Lease>,
    rules: AttachRules,
    state: Mutex<AttachState>,
    /// Incremented when a session may be done with a change.
    progress: watch::Sender<u64>,
}

#[derive(Default)]
struct AttachState {
    sessions: HashMap<u64, Arc<Session>>,
    next_id: u64,
    /// Until when clients of sessions that have ended may answer, margin included.
    ghosts_until: Micros,
    /// The number of the last change.
    last_notice: u64,
    /// Changes that are not done, the earliest first.
    waits: VecDeque<Wait>,
    /// No further grants are given.
    draining: bool,
    /// Sessions that were opened, and those of them that this replica ended because their clients were too slow.
    opened: u64,
    cut: u64,
    /// Messages about changes.
    notices: u64,
}

/// The sessions and the waiting changes at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AttachStatus {
    /// Sessions.
    pub(crate) sessions: usize,
    /// Sessions with an unacknowledged message.
    pub(crate) behind: usize,
    /// How long clients whose sessions have ended may still answer, margin included.
    pub(crate) ghosts: Micros,
    /// How long the earliest change that is not done has waited.
    pub(crate) wait: Micros,
    /// Sessions that were opened.
    pub(crate) opened: u64,
    /// Sessions that were ended because their clients were too slow.
    pub(crate) cut: u64,
    /// Messages about changes.
    pub(crate) notices: u64,
}

/// What one change waits for.
struct Wait {
    notice: u64,
    /// When the change was applied.
    since: Micros,
    /// When the grants of sessions that have ended are over.
    until: Micros,
    /// Sessions that were notified: the number of the message, and when the session's grant of that moment is over.
    sessions: Vec<(Arc<Session>, u64, Micros)>,
}

impl Wait {
    fn is_done(&self, now: Micros) -> bool {
        let done = |(session, number, until): &(Arc<Session>, u64, Micros)| session.has_done(*number) || *until <= now;
        self.until <= now && self.sessions.iter().all(done)
    }

    /// When it is done at the latest, without any further acknowledgement.
    fn end(&self, now: Micros) -> Micros {
        let silent = self.sessions.iter().filter(|(session, number, _)| !session.has_done(*number));
        silent.map(|(_, _, until)| *until).chain([self.until]).max().unwrap_or(now)
    }
}

impl Attachments {
    /// No sessions. Grants are never longer than what is left of `lease`.
    pub(crate) fn new(clock: Arc<dyn Clock>, cache: Arc<KeyCache>, lease: Arc<Lease>, rules: AttachRules) -> Self {
        Self { clock, cache, lease, rules, state: Mutex::default(), progress: watch::Sender::new(0) }
    }

    /// The longest grant plus the margin: how long a client may still answer after this process has ended.
    pub(crate) fn max_grant(&self) -> Micros {
        micros(self.rules.lease + LEASE_MARGIN)
    }

    /// Registers a session for invalidations. Read no key for it before this call. `caller` names whose it is; a
    /// revocation of the key with the digest `credential` ends it.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED if there are too many.
    pub(crate) fn register(
        &self,
        caller: &str,
        credential: Option<Digest>,
    ) -> Result<(Arc<Session>, mpsc::Receiver<SessionMessage>)> {
        let mut state = self.state.lock();
        let too_many = |reason, message: &'static str| Err(Error::new(ErrorKind::ResourceExhausted, reason, message));
        if state.draining {
            return Err(Error::unavailable("the replica is stopping"));
        }
        if state.sessions.len() >= self.rules.max_clients {
            return too_many("TOO_MANY_CLIENTS", "This replica has all the attached clients that it may have");
        }
        if state.sessions.values().filter(|session| session.caller == caller).count() >= MAX_SESSIONS_PER_CALLER {
            return too_many("TOO_MANY_CLIENTS", "This caller has all the attached clients that it may have");
        }
        let (queue, messages) = mpsc::channel(MAX_QUEUED);
        let id = state.next_id;
        state.next_id += 1;
        state.opened += 1;
        let session = Arc::new(Session::new(id, caller.to_owned(), credential, queue));
        state.sessions.insert(id, Arc::clone(&session));
        Ok((session, messages))
    }

    /// Grants time for a renewal, as far as the rules allow; `credential_left` is what is left of the caller's
    /// credential.
    pub(crate) fn grant(&self, session: &Session, renewal: Renewal, credential_left: Micros) {
        if self.state.lock().draining {
            return;
        }
        let max_length = micros(self.rules.lease).min(credential_left);
        let lease = || if fault_injection::disabled("attach_lease") { Micros::MAX } else { self.lease.remaining() };
        session.grant(renewal, max_length, lease, &*self.clock);
    }

    /// Answers a look-up, unless the key has changed since it was read. Returns whether it did.
    pub(crate) fn answer(&self, session: &Session, key: AnswerKey) -> bool {
        session.answer(key, &self.cache)
    }

    /// Notifies every session that may hold a key of a change to it. Call this after the replica's own memory was
    /// cleared of it, and before its lease is extended.
    pub(crate) fn apply(&self, digest: &Digest) -> NoticeNumber {
        self.notify(|session, now| session.invalidate(digest, now))
    }

    /// Notifies every session that any key may have changed.
    pub(crate) fn clear(&self) -> NoticeNumber {
        self.notify(|session, now| Some(session.clear(now)))
    }

    fn notify(&self, message: impl Fn(&Session, Micros) -> Option<(u64, Micros)>) -> NoticeNumber {
        let mut state = self.state.lock();
        state.last_notice += 1;
        let now = self.clock.boottime();
        let (mut sessions, mut sent) = (Vec::new(), 0);
        for session in state.sessions.values() {
            let Some((number, until)) = message(session, now) else { continue };
            sent += 1;
            if until > now {
                sessions.push((Arc::clone(session), number, until));
            }
        }
        state.notices += sent;
        let (notice, until) = (state.last_notice, state.ghosts_until);
        if !sessions.is_empty() || until > now {
            state.waits.push_back(Wait { notice, since: now, until, sessions });
        }
        NoticeNumber(notice)
    }

    /// Handles an acknowledgement.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for a number that was never sent.
    pub(crate) fn acknowledge(&self, session: &Session, number: u64) -> Result<()> {
        // Each progress makes the follower read the database, so a repeated acknowledgement must not signal any.
        if session.acknowledge(number, self.clock.boottime())? {
            self.progress.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    /// Ends a session. Unless its client has `stopped`, its last grant stays counted.
    pub(crate) fn end(&self, session: &Session, stopped: bool) {
        let mut state = self.state.lock();
        if state.sessions.remove(&session.id).is_none() {
            return;
        }
        state.cut += u64::from(session.was_cut());
        let until = session.close(stopped);
        if !fault_injection::disabled("attach_ghosts") {
            state.ghosts_until = state.ghosts_until.max(until);
        }
        drop(state);
        self.progress.send_modify(|count| *count += 1);
    }

    /// Counts grants of an earlier process, which may run for another `length`.
    pub(crate) fn count_earlier_grants(&self, length: Micros) {
        let mut state = self.state.lock();
        state.ghosts_until = state.ghosts_until.max(self.clock.boottime().saturating_add(length));
    }

    /// The last change that sessions were notified of.
    pub(crate) fn last_notice(&self) -> NoticeNumber {
        NoticeNumber(self.state.lock().last_notice)
    }

    /// The last change with which every session is done, and all before it.
    pub(crate) fn done(&self) -> NoticeNumber {
        let mut state = self.state.lock();
        let now = self.clock.boottime();
        if fault_injection::disabled("attach_wait") {
            return NoticeNumber(state.last_notice);
        }
        while state.waits.front().is_some_and(|wait| wait.is_done(now)) {
            state.waits.pop_front();
        }
        NoticeNumber(state.waits.front().map_or(state.last_notice, |wait| wait.notice - 1))
    }

    /// How long until the earliest change is done without a further acknowledgement; none if no change waits.
    pub(crate) fn next_end(&self) -> Option<Duration> {
        let state = self.state.lock();
        let now = self.clock.boottime();
        let end = state.waits.front()?.end(now);
        Some(Duration::from_micros(u64::try_from(end - now).unwrap_or(0)))
    }

    /// A receiver for [`Self::progress`]. Subscribe before calling [`Self::done`], or a change of it may be missed.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// Waits until a session may be done with a change.
    pub(crate) async fn progress(&self, progress: &mut watch::Receiver<u64>) {
        // Rounded up: a timer that fires early would find nothing done.
        let end = self.next_end().unwrap_or(IDLE_CHECK_INTERVAL) + Duration::from_millis(1);
        let _ = tokio::time::timeout(end, progress.changed()).await;
    }

    /// Waits until every session is done with every change until now.
    pub(crate) async fn wait(&self) {
        let mut progress = self.subscribe();
        let last = self.last_notice();
        while self.done() < last {
            self.progress(&mut progress).await;
        }
    }

    /// How long grants may still run, margin included.
    pub(crate) fn outstanding(&self) -> Micros {
        let state = self.state.lock();
        let until =
            state.sessions.values().map(|session| session.grant_end()).max().unwrap_or(0).max(state.ghosts_until);
        (until - self.clock.boottime()).max(0)
    }

    /// The sessions and what changes wait for.
    pub(crate) fn status(&self) -> AttachStatus {
        let state = self.state.lock();
        let now = self.clock.boottime();
        let first = state.waits.iter().find(|wait| !wait.is_done(now));
        AttachStatus {
            sessions: state.sessions.len(),
            behind: state.sessions.values().filter(|session| session.is_behind()).count(),
            ghosts: (state.ghosts_until - now).max(0),
            wait: first.map_or(0, |wait| now - wait.since),
            opened: state.opened,
            cut: state.cut,
            notices: state.notices,
        }
    }

    /// Stops granting, and asks every client to attach elsewhere. Returns when no grant runs.
    pub(crate) async fn drain(&self) {
        let sessions: Vec<_> = {
            let mut state = self.state.lock();
            state.draining = true;
            state.sessions.values().cloned().collect()
        };
        for session in sessions {
            session.drain();
        }
        let mut progress = self.subscribe();
        loop {
            let left = self.outstanding();
            if left == 0 || fault_injection::disabled("attach_leave") {
                return;
            }
            let left = Duration::from_micros(u64::try_from(left).unwrap_or(0)) + Duration::from_millis(1);
            let _ = tokio::time::timeout(left, progress.changed()).await;
        }
    }
}
