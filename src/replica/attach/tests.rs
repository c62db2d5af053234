//! Sessions on a clock that the tests advance. Guards of this level that a test build can switch off are switched off
//! here, too.

mod changes;
mod sessions;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicI64, Ordering},
};

use super::*;
use crate::{
    domain::{clock::SECOND, key::Binding},
    replica::{cache::ChangeSeq, cached_key::CachedKey},
};

const LEASE: Micros = 2 * SECOND;
const MARGIN: Micros = SECOND / 2;

struct ManualClock(AtomicI64);

impl Clock for ManualClock {
    fn wall(&self) -> Micros {
        // Not used here; an obviously wrong time, so that code that reads it fails.
        -self.boottime()
    }

    fn boottime(&self) -> Micros {
        self.0.load(Ordering::SeqCst)
    }
}

/// A replica whose lease holds for another hour.
struct World {
    clock: Arc<ManualClock>,
    cache: Arc<KeyCache>,
    lease: Arc<Lease>,
    all: Attachments,
}

impl World {
    fn new() -> Self {
        Self::with(AttachRules { lease: Duration::from_secs(2), max_clients: 4 })
    }

    fn with(rules: AttachRules) -> Self {
        let clock = Arc::new(ManualClock(AtomicI64::new(100 * SECOND)));
        let cache = Arc::new(KeyCache::new(1 << 20));
        let lease = Arc::new(Lease::new(clock.clone()));
        lease.extend(clock.boottime() + 3_600 * SECOND);
        let all = Attachments::new(clock.clone(), Arc::clone(&cache), Arc::clone(&lease), rules);
        Self { clock, cache, lease, all }
    }

    fn pass(&self, time: Micros) {
        self.clock.0.fetch_add(time, Ordering::SeqCst);
    }

    /// A session that holds a key, and was granted time just now.
    fn holder(&self, caller: &str, key: u8) -> (Arc<Session>, mpsc::Receiver<SessionMessage>) {
        let (session, mut messages) =
            self.all.register(caller, Some(Digest([u8::MAX; 32]))).unwrap_or_else(|_| panic!("a session"));
        assert!(self.answer(&session, key, self.cache.current_seq()));
        assert_eq!(self.granted(&session, &mut messages), LEASE);
        (session, messages)
    }

    fn answer(&self, session: &Session, key: u8, seq: ChangeSeq) -> bool {
        let facts =
            crate::replica::cached_key::tests::facts(Binding::default(), String::new(), Vec::new(), BTreeMap::new());
        let entry = Some(Arc::new(CachedKey::new(&facts, Some(0))));
        self.all.answer(session, AnswerKey { id: 1, digest: digest(key), key: entry, watched_verdict: None, seq })
    }

    /// Requests a grant. Returns its length.
    fn granted(&self, session: &Session, messages: &mut mpsc::Receiver<SessionMessage>) -> Micros {
        self.all.grant(session, Renewal(7), Micros::MAX);
        loop {
            if let SessionMessage::Grant { number: 7, length } = messages.try_recv().expect("a message") {
                return length;
            }
        }
    }

    /// Applies a change. Returns whether every session is done with it.
    fn change(&self, key: u8) -> bool {
        self.cache.invalidate(&digest(key));
        let notice = self.all.apply(&digest(key));
        self.all.done() >= notice
    }

    fn is_done(&self) -> bool {
        self.all.done() == self.all.last_notice()
    }
}

fn digest(key: u8) -> Digest {
    Digest([key; 32])
}

/// The number of the next message, which is to be acknowledged.
fn notified(messages: &mut mpsc::Receiver<SessionMessage>) -> u64 {
    loop {
        match messages.try_recv().expect("a message") {
            SessionMessage::Invalidate { number, .. }
            | SessionMessage::Clear { number }
            | SessionMessage::End { number } => return number,
            _ => {}
        }
    }
}

fn is_over(messages: &mut mpsc::Receiver<SessionMessage>) -> bool {
    while messages.try_recv().is_ok() {}
    matches!(messages.try_recv(), Err(mpsc::error::TryRecvError::Disconnected))
}
