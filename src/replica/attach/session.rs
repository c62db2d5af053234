//! One session: the keys that the client may hold, the messages that it was sent and has acknowledged, and the end of
//! its grant.

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{
    domain::{
        clock::{Clock, Micros, SECOND, micros},
        error::{Error, Result},
        key::Digest,
        verdict::VerdictCode,
    },
    replica::{
        cache::{ChangeSeq, KeyCache},
        cached_key::CachedKey,
        fault_injection,
        lease::LEASE_MARGIN,
    },
};

/// Keys that are tracked for one session individually. A session with more is notified of every change.
const MAX_INTERESTS: usize = 1 << 16;
/// A session that requests a grant while it has left a message unacknowledged for this long is ended. If it
/// acknowledges other messages meanwhile, it is ended after at most twice as long.
const MAX_UNACKNOWLEDGED: Micros = SECOND;

/// A message to a client. All of them go through one queue: their order is part of the protocol.
#[derive(Debug)]
pub(crate) enum SessionMessage {
    /// Time, in microseconds from before the renewal was sent; 0 grants nothing.
    Grant { number: u64, length: Micros },
    /// The answer to a look-up.
    Key(AnswerKey),
    /// A key has changed.
    Invalidate { number: u64, digest: Digest },
    /// Any key may have changed.
    Clear { number: u64 },
    /// The session drains: the client is to attach elsewhere.
    Drain,
    /// The client's own credential is not valid any more.
    End { number: u64 },
}

/// A client's request for time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Renewal(pub(crate) u64);

/// The answer to a look-up.
#[derive(Debug, Clone)]
pub(crate) struct AnswerKey {
    /// The look-up.
    pub(crate) id: u64,
    /// The digest of the secret.
    pub(crate) digest: Digest,
    /// The key; none if the client must not keep it.
    pub(crate) key: Option<Arc<CachedKey>>,
    /// For a look-up that watches a key that the client must not keep.
    pub(crate) watched_verdict: Option<WatchedVerdict>,
    /// The position in the sequence of changes before the key was read.
    pub(crate) seq: ChangeSeq,
}

/// The verdict on a key that the client must not keep, without its rate limit.
#[derive(Debug, Clone)]
pub(crate) struct WatchedVerdict {
    pub(crate) code: VerdictCode,
    /// None if the caller may not see the key.
    pub(crate) key: Option<Arc<CachedKey>>,
}

/// One session.
pub(crate) struct Session {
    pub(super) id: u64,
    pub(super) caller: String,
    credential: Option<Digest>,
    state: Mutex<State>,
}

struct State {
    /// None once the session has ended; its connection then ends, too.
    queue: Option<mpsc::Sender<SessionMessage>>,
    interests: Interests,
    /// The last number that was sent.
    sent: u64,
    /// Everything up to this number is done.
    done: u64,
    /// The number of the message whose acknowledgement is timed, and since when; none if every message is acknowledged.
    /// It stays the same until this message is acknowledged: if the oldest message were timed instead, a client that is
    /// always slightly behind would never be late.
    unacknowledged: Option<(u64, Micros)>,
    /// Until when the client may answer, margin included.
    grant_end: Micros,
    /// Nothing is granted any more.
    draining: bool,
    /// The replica ended the session because its client is too slow.
    cut: bool,
}

/// The keys that a client may hold, by the first words of their digests.
enum Interests {
    Some(HashSet<u64>),
    All,
}

impl Interests {
    fn add(&mut self, digest: &Digest) {
        if let Self::Some(words) = self {
            words.insert(first_word(digest));
            if words.len() > MAX_INTERESTS {
                *self = Self::All;
            }
        }
    }

    /// Removes an interest. Returns whether the client may hold the key, and so has to be notified; it holds the key no
    /// more once it has acknowledged.
    fn take(&mut self, digest: &Digest) -> bool {
        match self {
            Self::Some(words) => words.remove(&first_word(digest)),
            Self::All => true,
        }
    }
}

fn first_word(digest: &Digest) -> u64 {
    let (word, _) = digest.0.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    u64::from_be_bytes(*word)
}

impl State {
    /// Enqueues a message. If the queue is full, the session is ended; a message is never dropped.
    fn send(&mut self, message: SessionMessage) {
        if self.queue.as_ref().is_some_and(|queue| queue.try_send(message).is_err()) {
            self.cut();
        }
    }

    /// Ends the session of a client that is too slow.
    fn cut(&mut self) {
        self.queue = None;
        self.cut = true;
    }

    /// Numbers a message that is to be acknowledged; the number, and when the grants until now are over.
    fn send_numbered(&mut self, now: Micros, message: impl FnOnce(u64) -> SessionMessage) -> (u64, Micros) {
        self.sent += 1;
        self.unacknowledged = self.unacknowledged.or(Some((self.sent, now)));
        self.send(message(self.sent));
        (self.sent, self.grant_end)
    }
}

impl Session {
    pub(super) fn new(
        id: u64,
        caller: String,
        credential: Option<Digest>,
        queue: mpsc::Sender<SessionMessage>,
    ) -> Self {
        let state = State {
            queue: Some(queue),
            interests: Interests::Some(HashSet::new()),
            sent: 0,
            done: 0,
            unacknowledged: None,
            grant_end: Micros::MIN,
            draining: false,
            cut: false,
        };
        Self { id, caller, credential, state: Mutex::new(state) }
    }

    /// Grants at most `max_grant`, and at most what is left of the replica's own lease. The end is recorded in the same
    /// step in which the grant is enqueued. The lease is read within that step: code that ends the lease and then reads
    /// the end of all grants finds this grant, or this grant finds the lease ended.
    pub(super) fn grant(&self, renewal: Renewal, max_length: Micros, lease: impl Fn() -> Micros, clock: &dyn Clock) {
        let mut state = self.state.lock();
        let now = clock.boottime();
        let late = state.unacknowledged.is_some_and(|(_, since)| now - since >= MAX_UNACKNOWLEDGED);
        if late && !fault_injection::disabled("attach_cut") {
            // End the session here: a client that does not acknowledge may delay one change, but not every change.
            state.cut();
        }
        if state.draining || state.queue.is_none() {
            return;
        }
        // Whole milliseconds, rounded down.
        let length = max_length.min(lease()).max(0) / 1_000 * 1_000;
        if length > 0 {
            state.grant_end = state.grant_end.max(now.saturating_add(length).saturating_add(micros(LEASE_MARGIN)));
        }
        state.send(SessionMessage::Grant { number: renewal.0, length });
    }

    /// Checks that the key has not changed since it was read, notes the interest, and enqueues the answer, in one step:
    /// a change that is applied later finds the interest, and its invalidation is queued after the answer.
    pub(super) fn answer(&self, key: AnswerKey, cache: &KeyCache) -> bool {
        let mut state = self.state.lock();
        let watched =
            key.watched_verdict.as_ref().is_some_and(|watched_verdict| watched_verdict.code == VerdictCode::Valid);
        if key.key.is_some() || watched {
            if !cache.unchanged_since(key.seq, &key.digest) && !fault_injection::disabled("attach_recheck") {
                return false;
            }
            state.interests.add(&key.digest);
        }
        state.send(SessionMessage::Key(key));
        true
    }

    /// Notifies the client of a change to a key, if it may hold the key or is authenticated by it.
    pub(super) fn invalidate(&self, digest: &Digest, now: Micros) -> Option<(u64, Micros)> {
        let mut state = self.state.lock();
        let mut sent = None;
        if state.interests.take(digest) {
            sent = Some(state.send_numbered(now, |number| SessionMessage::Invalidate { number, digest: *digest }));
        }
        if self.credential.as_ref() == Some(digest) && !fault_injection::disabled("attach_credential") {
            state.draining = true;
            sent = Some(state.send_numbered(now, |number| SessionMessage::End { number }));
        }
        sent
    }

    /// Notifies the client that any key may have changed.
    pub(super) fn clear(&self, now: Micros) -> (u64, Micros) {
        let mut state = self.state.lock();
        state.interests = Interests::Some(HashSet::new());
        state.send_numbered(now, |number| SessionMessage::Clear { number })
    }

    /// Asks the client to attach elsewhere, and grants no more time.
    pub(crate) fn drain(&self) {
        let mut state = self.state.lock();
        if !state.draining {
            state.draining = true;
            state.send(SessionMessage::Drain);
        }
    }

    /// Records an acknowledgement. Returns whether it is of a message that was not acknowledged before.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for a number that was never sent.
    pub(super) fn acknowledge(&self, number: u64, now: Micros) -> Result<bool> {
        let mut state = self.state.lock();
        if number > state.sent {
            return Err(Error::invalid("acknowledge.number", "was never sent"));
        }
        let is_new = number > state.done;
        state.done = state.done.max(number);
        if state.unacknowledged.is_some_and(|(timed, _)| timed <= state.done) {
            state.unacknowledged = (state.done < state.sent).then_some((state.sent, now));
        }
        Ok(is_new)
    }

    /// Whether a message is unacknowledged.
    pub(super) fn is_behind(&self) -> bool {
        self.state.lock().unacknowledged.is_some()
    }

    /// Whether the replica ended it because its client is too slow.
    pub(super) fn was_cut(&self) -> bool {
        self.state.lock().cut
    }

    /// Whether everything up to a number is done.
    pub(super) fn has_done(&self, number: u64) -> bool {
        self.state.lock().done >= number
    }

    /// Until when the client may answer, margin included.
    pub(super) fn grant_end(&self) -> Micros {
        self.state.lock().grant_end
    }

    /// Ends the session. Returns until when its client may still answer; a client that has stopped no longer answers.
    pub(super) fn close(&self, stopped: bool) -> Micros {
        let mut state = self.state.lock();
        state.queue = None;
        state.draining = true;
        if stopped {
            (state.done, state.grant_end) = (state.sent, Micros::MIN);
        }
        state.grant_end
    }
}
