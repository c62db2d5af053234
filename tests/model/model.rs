//! A model of the revocation protocol, checked in every order in which its steps can happen.
//!
//! The promise: no Verify that starts after a Revoke returned OK answers VALID for that key, on any replica. Two more come
//! with it: a Verify still waiting when its replica applies the revocation does not answer VALID, and memory never answers
//! from a state older than the lease, whether a Revoke returned or not.
//!
//! Each statement is sent, executed and answered at different moments, and anything may happen in between: time passes,
//! another Verify begins, the replica dies. A replica that pauses, or is cut from the database, is one for which nothing
//! happens; a notification is a reading at any moment. Time is what is left of each lease and each wait, so that any length
//! of time, and any number of renewals and joins, is a finite number of states. A Verify that has no lease is a look-up, and
//! look-ups happen at any moment, so the model follows only a Verify that finds a lease. Of the cache it keeps whether a key
//! is held to be good: that it is revoked is for ever, and holding it or asking again answers the same.
//!
//! `proofs` below check the whole protocol, `guards` take its rules away one by one, and expect a counterexample.
//! `larger_proofs` take minutes, and run only when asked for.
//!
//! What cannot be promised when history is lost. A database that falls back to an earlier state, as when an asynchronous
//! standby takes over, may lose a revocation that it acknowledged, and then nothing is promised of it. It may also lose the
//! row of a replica that answers from memory, and then a Revoke cannot know of that replica until its lease has run out. So
//! the promise is checked for each Revoke that had returned before the fall and whose row was kept, and for each that reads
//! the rows a lease and a margin after it, or later: from then on it holds whatever else was lost, joins, renewals, reports,
//! and changes that a replica had already read.

mod follower;
mod guards;
mod names;
mod protocol;
mod revoke;
mod rules;
mod state;
mod verify;
mod witness;

use std::thread;
use std::time::Instant;

use stateright::{Checker, Model};

use protocol::{Action, Protocol};
use rules::Setting;
use state::Broken;

/// Checks a model to its end, or to the first counterexample: what it breaks, and how.
fn check(protocol: Protocol) -> Option<(Broken, Vec<Action>)> {
    let start = Instant::now();
    let checker = protocol.checker().spawn_bfs().join();
    println!(
        "{}: {} states, {} steps, {:.1} s",
        thread::current().name().unwrap_or_default(),
        checker.unique_state_count(),
        checker.state_count(),
        start.elapsed().as_secs_f32(),
    );
    let path = checker.discovery(Protocol::PROMISE)?;
    let broken = path.last_state().broken?;
    Some((broken, path.into_actions()))
}

/// Checks that the whole protocol keeps the promise, in an instance in which all that should happen does.
fn prove(setting: Setting) {
    let broken = check(Protocol::new(setting));
    assert!(broken.is_none(), "{broken:?}");
    Protocol { witness: true, ..Protocol::new(Setting { early_verifies: true, ..setting }) }
        .checker()
        .spawn_bfs()
        .join()
        .assert_properties();
}

mod proofs {
    use crate::prove;
    use crate::rules::{Hazard, Setting};

    #[test]
    fn two_replicas_keep_the_promise_while_they_leave_die_and_join() {
        let setting = Setting { replicas: 2, rows: 3, ..Setting::PLAIN };
        prove(setting.with(&[Hazard::Notified, Hazard::Death, Hazard::Leave, Hazard::Retry]));
    }

    #[test]
    fn two_replicas_keep_the_promise_while_rows_that_look_dead_are_removed() {
        let setting = Setting { replicas: 2, ..Setting::PLAIN };
        prove(setting.with(&[Hazard::CleanUp]));
    }

    #[test]
    fn one_replica_keeps_the_promise_for_two_keys() {
        let setting = Setting { keys: 2, ..Setting::PLAIN };
        prove(setting.with(&[Hazard::Notified, Hazard::Uncommitted, Hazard::Death, Hazard::Leave, Hazard::Retry]));
    }

    #[test]
    fn a_replica_keeps_the_promise_with_a_slow_clock_and_late_statements() {
        let setting = Setting { lease: 2, margin: 1, slow_ticks: 1, ..Setting::PLAIN };
        prove(setting.with(&[
            Hazard::Notified,
            Hazard::Strays,
            Hazard::Uncommitted,
            Hazard::Death,
            Hazard::Leave,
            Hazard::CleanUp,
            Hazard::Retry,
        ]));
    }

    #[test]
    fn memory_never_answers_from_a_state_older_than_the_lease() {
        let setting = Setting { lease: 2, margin: 1, slow_ticks: 1, ages: true, ..Setting::PLAIN };
        prove(setting.with(&[Hazard::Notified, Hazard::Uncommitted, Hazard::CleanUp, Hazard::Retry]));
    }

    #[test]
    fn the_promise_returns_a_lease_after_history_was_lost() {
        prove(Setting::PLAIN.with(&[
            Hazard::LostHistory,
            Hazard::Notified,
            Hazard::Uncommitted,
            Hazard::Death,
            Hazard::Leave,
            Hazard::CleanUp,
            Hazard::Retry,
        ]));
    }

    #[test]
    fn the_promise_returns_although_statements_outlive_the_loss_of_history() {
        prove(Setting::PLAIN.with(&[Hazard::LostHistory, Hazard::Strays, Hazard::CleanUp]));
    }
}

/// The same with more hazards at once: minutes, and a gigabyte of memory.
mod larger_proofs {
    use crate::prove;
    use crate::rules::{Hazard, Setting};

    const ALL: [Hazard; 7] = [
        Hazard::Notified,
        Hazard::Strays,
        Hazard::Uncommitted,
        Hazard::Death,
        Hazard::Leave,
        Hazard::CleanUp,
        Hazard::Retry,
    ];

    #[test]
    #[ignore = "takes minutes"]
    fn two_replicas_keep_the_promise_while_they_join_and_are_removed() {
        let setting = Setting { replicas: 2, rows: 3, ..Setting::PLAIN };
        prove(setting.with(&[Hazard::Notified, Hazard::Death, Hazard::Leave, Hazard::CleanUp, Hazard::Retry]));
    }

    #[test]
    #[ignore = "takes minutes"]
    fn one_replica_keeps_the_promise_for_two_keys_whatever_goes_wrong() {
        let setting = Setting { keys: 2, ..Setting::PLAIN };
        prove(setting.with(&ALL));
    }

    #[test]
    #[ignore = "takes minutes"]
    fn the_promise_returns_a_lease_after_history_was_lost_whatever_goes_wrong() {
        prove(Setting::PLAIN.with(&ALL).with(&[Hazard::LostHistory]));
    }
}
