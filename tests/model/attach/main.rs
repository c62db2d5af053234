//! A model of the level between a replica and the clients that hold keys in their own memory under its lease. The model
//! checker explores every order of its steps.
//!
//! The promise: no Verify that begins in a client after the Revoke returned answers VALID, whatever breaks.
//!
//! The level above, between the database and the replicas, is checked by the model in `model.rs`. Here it is as small as
//! the promise allows: one key; a replica's row, its renewals, its joins, the removal of its row by itself and by peers,
//! and a Revoke that waits for the rows. A session has both of its ends and one queue down. A client that moves has two
//! sessions, an old one that is used until its deadline, and a new one. A paused process is one that takes no steps.
//!
//! `proofs` check the whole protocol. `guards` remove its rules one by one and expect a counterexample. `larger_proofs`
//! take minutes and are ignored by default. With `KEYWARD_MODEL_SECONDS` each check ends after that time, prints how far it
//! came, and has found no counterexample up to there.

mod guards;
mod protocol;
mod replica;
mod rules;
mod session;
mod state;

use std::{
    thread,
    time::{Duration, Instant},
};

use stateright::{Checker as _, Model as _};

use crate::{
    protocol::{Action, Protocol},
    rules::Setting,
};

/// Checks a model completely, or up to the first counterexample, whose steps are returned.
fn check(protocol: Protocol) -> Option<Vec<Action>> {
    let start = Instant::now();
    let builder = protocol.checker();
    let checker = match time_limit() {
        Some(limit) => builder.timeout(limit).spawn_bfs().join(),
        None => builder.spawn_bfs().join(),
    };
    println!(
        "{}: {} states, {} steps, depth {}, {:.1} s{}",
        thread::current().name().unwrap_or_default(),
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        start.elapsed().as_secs_f32(),
        if time_limit().is_some_and(|limit| start.elapsed() >= limit) { ", not to the end" } else { "" },
    );
    Some(checker.discovery(Protocol::PROMISE)?.into_actions())
}

/// How long a check may take; none: until every state is checked.
fn time_limit() -> Option<Duration> {
    let seconds = std::env::var("KEYWARD_MODEL_SECONDS").ok()?;
    Some(Duration::from_secs(seconds.parse().expect("KEYWARD_MODEL_SECONDS is a whole number")))
}

/// Checks that the whole protocol keeps the promise, and that everything that should be possible does happen.
fn prove(setting: Setting) {
    let broken = check(Protocol::new(setting));
    assert!(broken.is_none(), "{broken:?}");
    if time_limit().is_some() {
        // What has to be possible may lie further on.
        return;
    }
    Protocol { witness: true, ..Protocol::new(setting) }.checker().spawn_bfs().join().assert_properties();
}

mod proofs {
    use crate::{
        prove,
        rules::{Hazard, Setting},
    };

    #[test]
    #[ignore = "takes minutes"]
    fn a_client_of_a_replica_whose_row_peers_remove_keeps_the_promise() {
        prove(Setting::PLAIN.with(&[Hazard::Notified, Hazard::CleanUp]));
    }

    #[test]
    fn a_client_of_a_replica_that_dies_and_leaves_keeps_the_promise() {
        prove(Setting::PLAIN.with(&[Hazard::Death, Hazard::Leave, Hazard::ClientStops]));
    }

    #[test]
    fn a_client_of_a_process_that_owns_its_database_keeps_the_promise() {
        let setting = Setting { single: true, margin: 1, slow_ticks: 1, ..Setting::PLAIN };
        prove(setting.with(&[Hazard::Death, Hazard::ClientStops]));
    }

    #[test]
    fn a_client_with_an_old_and_a_new_session_at_such_a_process_keeps_the_promise() {
        prove(Setting { single: true, sessions: 2, ..Setting::PLAIN });
    }
}

/// More sessions, more replicas and more hazards at once. They take minutes, and gigabytes of memory.
mod larger_proofs {
    use crate::{
        prove,
        rules::{Hazard, Setting},
    };

    const ALL: [Hazard; 6] =
        [Hazard::Notified, Hazard::Death, Hazard::Lost, Hazard::Leave, Hazard::CleanUp, Hazard::ClientStops];

    #[test]
    #[ignore = "takes minutes"]
    fn a_client_of_a_replica_that_joins_again_keeps_the_promise() {
        prove(Setting::PLAIN.with(&[Hazard::Notified, Hazard::Lost, Hazard::CleanUp]));
    }

    #[test]
    #[ignore = "takes minutes"]
    fn a_client_keeps_the_promise_although_a_clock_is_slow() {
        prove(Setting { grant: 2, margin: 1, slow_ticks: 1, ..Setting::PLAIN });
    }

    #[test]
    #[ignore = "takes minutes"]
    fn a_client_keeps_the_promise_with_every_hazard() {
        prove(Setting { margin: 1, slow_ticks: 1, ..Setting::PLAIN }.with(&ALL));
    }

    #[test]
    #[ignore = "takes minutes"]
    fn a_client_with_an_old_and_a_new_session_keeps_the_promise() {
        prove(Setting { sessions: 2, ..Setting::PLAIN }.with(&[Hazard::Lost, Hazard::CleanUp]));
    }

    #[test]
    #[ignore = "takes minutes"]
    fn a_client_that_moves_between_two_replicas_keeps_the_promise() {
        prove(Setting { replicas: 2, sessions: 2, ..Setting::PLAIN });
    }
}
