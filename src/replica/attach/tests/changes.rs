//! Changes: which sessions are notified, and what a change waits for.

use super::*;

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
fn a_session_without_a_grant_delays_nothing_although_it_is_notified() {
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
    assert!(matches!(messages.try_recv(), Ok(SessionMessage::Key(_))));
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
fn a_session_is_notified_once_of_a_key_and_again_after_the_next_answer() {
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
fn grants_of_an_earlier_process_are_waited_for() {
    let world = World::new();
    world.all.count_earlier_grants(world.all.max_grant());
    assert!(!world.change(1));
    world.pass(LEASE + MARGIN);
    assert!(world.is_done());
}

#[test]
fn a_repeated_acknowledgement_wakes_nothing() {
    let world = World::new();
    let (session, mut messages) = world.holder("a", 1);
    let mut progress = world.all.subscribe();
    assert!(!world.change(1));
    let number = notified(&mut messages);
    world.all.acknowledge(&session, number).unwrap();
    assert!(progress.has_changed().unwrap(), "the change is done");
    progress.mark_unchanged();
    for repeated in [number, number, 0] {
        world.all.acknowledge(&session, repeated).unwrap();
    }
    assert!(!progress.has_changed().unwrap(), "each wake-up makes the follower read the database");
}
