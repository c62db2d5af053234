//! Sessions on a clock that the tests move. Guards of this level that a test build can switch off are switched off here, too.

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
        // Of no use here: whatever reads it gets nonsense.
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
    fn holder(&self, caller: &str, key: u8) -> (Arc<Session>, mpsc::Receiver<Down>) {
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
        self.all.answer(session, AnswerKey { id: 1, digest: digest(key), key: entry, standing: None, seq })
    }

    /// Asks for time; how much it gets.
    fn granted(&self, session: &Session, messages: &mut mpsc::Receiver<Down>) -> Micros {
        self.all.grant(session, Renewal(7), Micros::MAX);
        loop {
            if let Down::Grant { number: 7, length } = messages.try_recv().expect("a message") {
                return length;
            }
        }
    }

    /// Applies a change; whether nobody has to be waited for.
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
fn notified(messages: &mut mpsc::Receiver<Down>) -> u64 {
    loop {
        match messages.try_recv().expect("a message") {
            Down::Invalidate { number, .. } | Down::Clear { number } | Down::End { number } => return number,
            _ => {}
        }
    }
}

fn is_over(messages: &mut mpsc::Receiver<Down>) -> bool {
    while messages.try_recv().is_ok() {}
    matches!(messages.try_recv(), Err(mpsc::error::TryRecvError::Disconnected))
}

#[test]
fn a_grant_is_bounded_by_the_rules_the_lease_and_the_credential() {
    let world = World::new();
    let (session, mut messages) = world.holder("a", 1);
    world.all.grant(&session, Renewal(8), SECOND + 999);
    assert!(matches!(messages.try_recv(), Ok(Down::Grant { number: 8, length: SECOND })), "whole milliseconds");
    for (left, granted) in [(SECOND, SECOND), (1_999, 1_000), (999, 0), (0, 0), (-SECOND, 0)] {
        world.lease.extend(world.clock.boottime() + left);
        assert_eq!(world.granted(&session, &mut messages), granted, "the lease has {left}");
    }
    world.lease.end();
    assert_eq!(world.granted(&session, &mut messages), 0, "no lease");
    world.lease.extend(Micros::MAX);
    for left in [0, -1, Micros::MIN] {
        world.all.grant(&session, Renewal(9), left);
        assert!(matches!(messages.try_recv(), Ok(Down::Grant { number: 9, length: 0 })), "a credential with {left}");
    }
}

#[test]
fn a_change_waits_for_the_acknowledgement_or_the_grant_and_the_margin() {
    let world = World::new();
    let (session, mut messages) = world.holder("a", 1);
    assert!(world.change(2), "the session does not hold that key");
    assert!(!world.change(1));
    let number = notified(&mut messages);
    world.all.acknowledge(&session, number).unwrap();
    assert!(world.is_done());

    let (_silent, _messages) = world.holder("b", 3);
    assert!(!world.change(3));
    world.pass(LEASE + MARGIN - 1);
    assert!(!world.is_done(), "the grant and the margin are not over");
    world.pass(1);
    assert!(world.is_done());
}

#[test]
fn a_session_without_a_grant_delays_nothing_although_it_is_told() {
    let world = World::new();
    let (session, mut messages) = world.holder("a", 1);
    world.pass(LEASE + MARGIN);
    assert!(world.change(1));
    assert_eq!(notified(&mut messages), 1);
    assert_eq!(world.granted(&session, &mut messages), LEASE, "later than the notice, in the same queue");
}

#[test]
fn a_later_grant_does_not_lengthen_an_earlier_wait() {
    let world = World::new();
    let (session, mut messages) = world.holder("a", 1);
    world.pass(LEASE / 2);
    assert!(!world.change(1));
    assert_eq!(world.granted(&session, &mut messages), LEASE);
    world.pass(LEASE / 2 + MARGIN);
    assert!(world.is_done());
    assert_eq!(world.all.outstanding(), LEASE / 2, "the later grant still runs");
}

#[test]
fn changes_are_done_in_their_order() {
    let world = World::new();
    let (session, mut messages) = world.holder("a", 1);
    let (_silent, _messages) = world.holder("b", 2);
    let first = world.all.apply(&digest(2));
    let second = world.all.apply(&digest(1));
    world.all.acknowledge(&session, notified(&mut messages)).unwrap();
    assert!(world.all.done() < first, "the second one is done, the first one is not");
    world.pass(LEASE + MARGIN);
    assert_eq!(world.all.done(), second);
}

#[test]
fn a_session_that_has_stopped_is_forgotten_and_one_that_is_gone_is_not() {
    for (stopped, done) in [(true, true), (false, false)] {
        let world = World::new();
        let (session, _messages) = world.holder("a", 1);
        world.all.end(&session, stopped);
        assert_eq!(world.change(9), done, "any key: what it held is not known any more");
        assert_eq!(world.all.outstanding() == 0, done);
        // And one that ends while a change waits for it.
        let (session, _messages) = world.holder("a", 1);
        world.pass(1);
        assert!(!world.change(1));
        world.all.end(&session, stopped);
        assert_eq!(world.is_done(), done);
        world.pass(LEASE + MARGIN);
        assert!(world.is_done());
    }
}

#[cfg(feature = "faults")]
#[test]
fn without_their_guards_a_change_is_done_too_early() {
    for (guard, gone) in [("attach_wait", false), ("attach_ghosts", true)] {
        let world = World::new();
        let (session, _messages) = world.holder("a", 1);
        let _disabled = fault_injection::disable(guard);
        if gone {
            world.all.end(&session, false);
        }
        assert!(world.change(1), "{guard} is needed");
    }
}

#[test]
fn an_answer_that_a_change_overtakes_is_not_given() {
    let world = World::new();
    let (session, mut messages) = world.holder("a", 1);
    let before = world.cache.current_seq();
    assert!(world.answer(&session, 2, before));
    assert!(matches!(messages.try_recv(), Ok(Down::Key(_))));
    world.change(2);
    assert_eq!(notified(&mut messages), 1, "the interest was noted with the answer");
    assert!(!world.answer(&session, 2, before), "it was read before the change");
    assert!(messages.try_recv().is_err());
    #[cfg(feature = "faults")]
    {
        let _disabled = fault_injection::disable("attach_recheck");
        assert!(world.answer(&session, 2, before), "the guard is needed");
    }
}

#[test]
fn a_session_is_told_once_of_a_key_and_again_after_the_next_answer() {
    let world = World::new();
    let (session, mut messages) = world.holder("a", 1);
    world.change(1);
    world.change(1);
    assert_eq!(notified(&mut messages), 1);
    assert!(messages.try_recv().is_err(), "it does not hold the key any more");
    assert!(world.answer(&session, 1, world.cache.current_seq()));
    world.change(1);
    assert_eq!(notified(&mut messages), 2);
}

#[test]
fn a_join_clears_every_session() {
    let world = World::new();
    let (session, mut messages) = world.holder("a", 1);
    let notice = world.all.clear();
    assert!(world.all.done() < notice);
    world.all.acknowledge(&session, notified(&mut messages)).unwrap();
    assert_eq!(world.all.done(), notice);
    assert!(world.change(1), "it holds nothing");
}

#[test]
fn the_end_of_a_credential_ends_the_grants_and_is_waited_for() {
    let world = World::new();
    let (session, mut messages) = world.holder("a", 1);
    assert!(!world.change(u8::MAX));
    let number = notified(&mut messages);
    world.all.grant(&session, Renewal(1), Micros::MAX);
    assert!(messages.try_recv().is_err(), "nothing is granted any more");
    world.all.acknowledge(&session, number).unwrap();
    assert!(world.is_done());
}

#[test]
fn a_client_that_acknowledges_nothing_gets_no_more_time_and_delays_one_change_only() {
    let world = World::new();
    let (session, mut messages) = world.holder("a", 1);
    assert!(!world.change(1));
    world.pass(SECOND - 1);
    assert_eq!(world.granted(&session, &mut messages), LEASE, "it is not late yet");
    world.pass(1);
    world.all.grant(&session, Renewal(1), Micros::MAX);
    assert!(is_over(&mut messages));
    world.all.end(&session, false);
    world.pass(LEASE + MARGIN);
    assert!(world.is_done() && world.change(1));
    assert_eq!(world.all.status(), AttachStatus { opened: 1, cut: 1, notices: 1, ..AttachStatus::default() });
}

#[test]
fn a_client_that_is_always_behind_is_cut_although_it_acknowledges() {
    let world = World::new();
    let (session, mut messages) = world.holder("a", 1);
    let mut sent = Vec::new();
    for round in 0..40_usize {
        assert!(world.answer(&session, 1, world.cache.current_seq()));
        world.change(1);
        sent.push(notified(&mut messages));
        // What was sent two seconds ago.
        if let Some(late) = round.checked_sub(20).map(|place| sent[place]) {
            world.all.acknowledge(&session, late).unwrap();
        }
        world.pass(SECOND / 10);
        world.all.grant(&session, Renewal(1), Micros::MAX);
        if is_over(&mut messages) {
            assert!(round < 25, "cut in round {round}");
            return;
        }
    }
    panic!("it delays every change for ever");
}

#[test]
fn a_client_that_acknowledges_each_change_late_but_in_time_stays() {
    let world = World::new();
    let (session, mut messages) = world.holder("a", 1);
    for _ in 0..50 {
        assert!(world.answer(&session, 1, world.cache.current_seq()));
        world.change(1);
        let number = notified(&mut messages);
        world.pass(SECOND * 9 / 10);
        world.all.acknowledge(&session, number).unwrap();
        assert_eq!(world.granted(&session, &mut messages), LEASE);
    }
}

#[test]
fn a_full_queue_costs_the_session_and_its_grant_stays_counted() {
    let world = World::new();
    let (session, mut messages) = world.holder("a", 1);
    for _ in 0..=MAX_QUEUED {
        assert!(world.answer(&session, 1, world.cache.current_seq()));
    }
    assert!(!world.change(1), "it cannot be told, and may still answer");
    assert!(is_over(&mut messages));
    world.all.end(&session, false);
    assert!(!world.is_done());
    world.pass(LEASE + MARGIN);
    assert!(world.is_done());
}

#[test]
fn what_was_never_sent_and_what_another_session_was_sent_cannot_be_acknowledged() {
    let world = World::new();
    let (holds, mut messages) = world.holder("a", 1);
    let (other, _messages) = world.holder("b", 2);
    assert!(!world.change(1));
    let number = notified(&mut messages);
    assert_eq!(world.all.acknowledge(&other, number).unwrap_err().kind, ErrorKind::InvalidArgument);
    assert!(world.all.acknowledge(&holds, number + 1).is_err() && world.all.acknowledge(&holds, u64::MAX).is_err());
    assert!(!world.is_done());
    world.all.acknowledge(&holds, 0).unwrap();
    assert!(!world.is_done(), "nothing has the number 0");
    world.all.acknowledge(&holds, number).unwrap();
    assert!(world.is_done());
}

#[test]
fn sessions_are_bounded_in_all_and_for_one_caller() {
    let world = World::with(AttachRules { max_clients: MAX_SESSIONS_PER_CALLER + 1, ..AttachRules::default() });
    let open: Vec<_> = (0..MAX_SESSIONS_PER_CALLER).map(|_| world.holder("a", 1)).collect();
    assert!(world.all.register("a", None).is_err(), "of one caller");
    let (last, _messages) = world.holder("b", 1);
    assert!(world.all.register("c", None).is_err(), "of all");
    world.all.end(&last, false);
    assert!(world.all.register("c", None).is_ok());
    assert_eq!(world.all.status().sessions, open.len() + 1);
}

#[tokio::test]
async fn a_replica_that_leaves_waits_for_every_grant() {
    let world = Arc::new(World::new());
    let (stops, mut messages) = world.holder("a", 1);
    let (quiet, mut silent) = world.holder("b", 1);
    let leaving = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.all.leave().await }
    });
    tokio::task::yield_now().await;
    assert!(matches!(messages.try_recv(), Ok(Down::Going)) && matches!(silent.try_recv(), Ok(Down::Going)));
    world.all.grant(&stops, Renewal(1), Micros::MAX);
    assert!(messages.try_recv().is_err(), "nothing is granted any more");
    assert!(world.all.register("c", None).is_err(), "nobody attaches any more");
    world.all.end(&stops, true);
    // Something may have become done: it looks again.
    let look_again = async || {
        world.all.acknowledge(&quiet, 0).unwrap();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    };
    world.pass(LEASE + MARGIN - 1);
    look_again().await;
    assert!(!leaving.is_finished());
    world.pass(1);
    look_again().await;
    tokio::time::timeout(Duration::from_secs(30), leaving).await.expect("it has left").unwrap();
}

#[test]
fn grants_of_an_earlier_process_are_waited_for() {
    let world = World::new();
    world.all.remember(world.all.longest());
    assert!(!world.change(1));
    world.pass(LEASE + MARGIN);
    assert!(world.is_done());
}

#[test]
fn the_status_says_for_how_long_the_earliest_change_has_waited() {
    let world = World::new();
    let (session, mut messages) = world.holder("a", 1);
    assert_eq!(world.all.status(), AttachStatus { sessions: 1, opened: 1, ..AttachStatus::default() });
    world.change(1);
    world.pass(SECOND);
    let waits = AttachStatus { sessions: 1, behind: 1, wait: SECOND, opened: 1, notices: 1, ..AttachStatus::default() };
    assert_eq!(world.all.status(), waits);
    world.all.acknowledge(&session, notified(&mut messages)).unwrap();
    assert_eq!(world.all.status(), AttachStatus { behind: 0, wait: 0, ..waits });
    world.all.end(&session, false);
    let ghosts = LEASE + MARGIN - SECOND;
    assert_eq!(world.all.status(), AttachStatus { sessions: 0, behind: 0, wait: 0, ghosts, ..waits });
}
