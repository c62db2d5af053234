//! The promise, under load and with all kinds of faults at once.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{chaos::Chaos, cluster::Cluster, load::Load, storm_settings::StormSettings};

const REPLICAS: usize = 3;
/// Verifying tasks for each replica.
const VERIFIERS: usize = 4;
/// Revoking tasks. They mostly wait: while a replica is unreachable, a Revoke takes as long as its lease.
const REVOKERS: u64 = 144;
/// The first phase has no faults and few callers, to measure Revoke.
const QUIET_PHASE: Duration = Duration::from_secs(4);
const QUIET_REVOKERS: u64 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn no_verify_that_starts_after_revoke_returned_answers_valid() {
    let StormSettings { seconds, seed, starts } = StormSettings::read(40, REPLICAS);
    let Cluster { database, replicas } = Cluster::start(starts).await;
    let database = Arc::new(database);
    let load = Arc::new(Load::new(replicas));
    load.history.fault("wall clock stepping");

    let mut callers = JoinSet::new();
    let mut call = |revokers: std::ops::Range<u64>| {
        for task in revokers {
            callers.spawn(Arc::clone(&load).revoker(seed ^ task << 20));
        }
    };
    // Few callers at first, to measure the duration of a Revoke and not the load of the machine.
    call(0..QUIET_REVOKERS);
    tokio::time::sleep(QUIET_PHASE).await;
    load.quiet.store(false, Ordering::SeqCst);
    call(QUIET_REVOKERS..REVOKERS);
    for replica in 0..REPLICAS {
        for task in 0..VERIFIERS {
            callers.spawn(Arc::clone(&load).verifier(replica, seed ^ ((replica * VERIFIERS + task) as u64) << 8));
        }
    }

    let chaos = Arc::new(Chaos::new(Arc::clone(&load), Arc::clone(&database)));
    let end = Instant::now() + Duration::from_secs(seconds);
    // Each in its own task: restarting a replica blocks the task, and may wait for the database.
    let mut disturbing = JoinSet::new();
    disturbing.spawn(Arc::clone(&chaos).disturb_replicas(seed ^ 1, end));
    disturbing.spawn(Arc::clone(&chaos).disturb_replicas(seed ^ 2, end));
    disturbing.spawn(Arc::clone(&chaos).disturb_database(seed ^ 3, end));
    while let Some(ended) = disturbing.join_next().await {
        ended.expect("the faults are injected");
    }
    chaos.heal();
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.over.store(true, Ordering::SeqCst);
    while let Some(ended) = callers.join_next().await {
        ended.expect("the caller ends without a panic");
    }
    // Revoked keys stay revoked.
    for key in load.recent() {
        load.check_everywhere(&key, Duration::from_secs(3)).await;
    }

    println!("{}", load.history.summary());
    for replica in &load.replicas {
        println!("attached client: {:?}", replica.attached().attach_status());
    }
    let violations = load.history.violations.lock().unwrap();
    if !violations.is_empty() {
        for (number, replica) in load.replicas.iter().enumerate() {
            println!("replica {number}:\n{}", replica.log());
        }
    }
    assert!(violations.is_empty(), "seed {seed}:\n{}", violations.join("\n"));
    assert!(load.history.revocations.load(Ordering::Relaxed) > 100, "too few revocations to be meaningful");
}
