//! A model of the revocation protocol. The model checker explores every order of its steps.
//!
//! The promise: no Verify that starts after a Revoke returned OK answers VALID for that key, on any replica. Two more
//! properties are checked: a Verify that is still waiting when its replica applies the revocation does not answer
//! VALID, and the cache never answers from a state older than the lease, whether a Revoke returned or not.
//!
//! Each statement is sent, executed and answered at different moments, and anything may happen in between: time passes,
//! another Verify begins, the replica dies. A replica that is paused or cut off from the database is one that takes no
//! steps. A notification is a read at any moment. Time is modeled as the remaining duration of each lease and each wait, so
//! that any length of time, and any number of renewals and joins, is a finite number of states. A Verify without a lease is
//! a look-up, and look-ups happen at any moment, so the model follows only a Verify that finds a lease. Of the cache, the
//! model keeps only whether a key is cached as good. A revoked key stays revoked, so a cached revoked key answers the same
//! as a look-up.
//!
//! `proofs` check the whole protocol. `guards` remove its rules one by one and expect a counterexample. `larger_proofs`
//! take minutes and are ignored by default.
//!
//! Limits of the promise when history is lost: a database that falls back to an earlier state, for example when an
//! asynchronous standby takes over, may lose a revocation that it acknowledged. Nothing is promised for that key. The
//! database may also lose the row of a replica that answers from its cache. A Revoke cannot wait for that replica, so
//! the promise is suspended until its lease has expired. So the promise is checked for each Revoke that returned before
//! the loss and whose change was kept, and for each Revoke that reads the rows at least a lease and a margin after the
//! loss. From then on it holds, whatever else was lost: joins, renewals, reports, and changes that a replica had
//! already read.

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

/// Checks a model completely, or up to the first counterexample. Returns the broken property and the steps to it.
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

/// Checks that the whole protocol keeps the promise, and that everything that should be possible does happen.
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
    fn the_cache_never_answers_from_a_state_older_than_the_lease() {
        let setting = Setting { lease: 2, margin: 1, slow_ticks: 1, ages: true, ..Setting::PLAIN };
        prove(setting.with(&[Hazard::Notified, Hazard::Uncommitted, Hazard::CleanUp, Hazard::Retry]));
    }

    #[test]
    fn the_promise_holds_again_a_lease_after_history_was_lost() {
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
    fn the_promise_holds_again_although_statements_outlive_the_loss_of_history() {
        prove(Setting::PLAIN.with(&[Hazard::LostHistory, Hazard::Strays, Hazard::CleanUp]));
    }
}

/// The same proofs with more hazards at once. They take minutes, and a gigabyte of memory.
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
    fn one_replica_keeps_the_promise_for_two_keys_with_every_hazard() {
        let setting = Setting { keys: 2, ..Setting::PLAIN };
        prove(setting.with(&ALL));
    }

    #[test]
    #[ignore = "takes minutes"]
    fn the_promise_holds_again_a_lease_after_history_was_lost_with_every_hazard() {
        prove(Setting::PLAIN.with(&ALL).with(&[Hazard::LostHistory]));
    }
}
