//! Sessions: their grants, their ends, and what bounds them.

use super::*;

#[test]
fn a_grant_is_bounded_by_the_rules_the_lease_and_the_credential() {
    let world = World::new();
    let (session, mut messages) = world.holder("a", 1);
    world.all.grant(&session, Renewal(8), SECOND + 999);
    assert!(
        matches!(messages.try_recv(), Ok(SessionMessage::Grant { number: 8, length: SECOND })),
        "whole milliseconds"
    );
    for (left, granted) in [(SECOND, SECOND), (1_999, 1_000), (999, 0), (0, 0), (-SECOND, 0)] {
        world.lease.extend(world.clock.boottime() + left);
        assert_eq!(world.granted(&session, &mut messages), granted, "the lease has {left}");
    }
    world.lease.end();
    assert_eq!(world.granted(&session, &mut messages), 0, "no lease");
    world.lease.extend(Micros::MAX);
    for left in [0, -1, Micros::MIN] {
        world.all.grant(&session, Renewal(9), left);
        assert!(
            matches!(messages.try_recv(), Ok(SessionMessage::Grant { number: 9, length: 0 })),
            "a credential with {left}"
        );
    }
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
        if let Some(late) = round.checked_sub(20).map(|index| sent[index]) {
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
    assert!(!world.change(1), "it cannot be notified, and may still answer");
    assert!(is_over(&mut messages));
    world.all.end(&session, false);
    assert!(!world.is_done());
    world.pass(LEASE + MARGIN);
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
    let (_quiet, mut silent) = world.holder("b", 1);
    let drained = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.all.drain().await }
    });
    tokio::task::yield_now().await;
    assert!(
        matches!(messages.try_recv(), Ok(SessionMessage::Drain))
            && matches!(silent.try_recv(), Ok(SessionMessage::Drain))
    );
    world.all.grant(&stops, Renewal(1), Micros::MAX);
    assert!(messages.try_recv().is_err(), "nothing is granted any more");
    assert!(world.all.register("c", None).is_err(), "nobody attaches any more");
    world.all.end(&stops, true);
    let check_again = async || {
        world.all.progress.send_modify(|count| *count += 1);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    };
    world.pass(LEASE + MARGIN - 1);
    check_again().await;
    assert!(!drained.is_finished());
    world.pass(1);
    check_again().await;
    assert!(drained.is_finished());
    drained.await.unwrap();
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
