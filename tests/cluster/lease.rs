//! Leases: how long the cache answers without the database, and how long a Revoke takes when a replica leaves or dies.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyward::proto::Code;
use sqlx::Executor as _;

use crate::{
    cluster::{Cluster, LEASE, Replica, Start, code},
    database::Database,
    support::grpc::eventually,
};

/// Waiting for the end of a lease takes this much longer than the lease.
const LEASE_MARGIN: Duration = Duration::from_millis(500);
/// Tolerance for a busy machine.
const SLACK: Duration = Duration::from_millis(700);

async fn time_of_revoke(replica: &Replica, id: &str) -> Duration {
    let start = Instant::now();
    replica.revoke(id).await;
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_the_database_verify_is_unavailable_after_the_lease_and_recovers_with_the_database() {
    let (cluster, _first, second) = Cluster::pair(Start::default()).await;
    let key = cluster.warm_key().await;
    second.proxy.silence(true);
    let cut = Instant::now();
    let mut last_valid = cut;
    let mut unavailable = None;
    while cut.elapsed() < LEASE + Duration::from_secs(3) {
        let started = Instant::now();
        match code(&mut second.client(), &key.secret, Duration::from_millis(500)).await {
            Ok(Code::Valid) => last_valid = started,
            Ok(other) => panic!("{other:?}"),
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
                unavailable.get_or_insert(started);
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let unavailable = unavailable.expect("Verify becomes unavailable");
    assert!(last_valid < unavailable, "VALID again without the database");
    assert!(last_valid - cut > LEASE / 2, "the cache answers while the lease holds: {:?}", last_valid - cut);
    assert!(unavailable - cut <= LEASE + SLACK, "unavailable only after {:?}", unavailable - cut);
    assert!(!second.is_ready().await);
    println!("VALID until {:?}, UNAVAILABLE from {:?} on", last_valid - cut, unavailable - cut);

    second.proxy.silence(false);
    second.is_ready_within(Duration::from_secs(10)).await;
    assert_eq!(second.code(&key.secret).await.expect("an answer"), Code::Valid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replica_that_is_stopped_leaves_at_once() {
    let (cluster, first, second) = Cluster::pair(Start::default().lease(20)).await;
    let key = cluster.warm_key().await;
    second.stop();
    let took = time_of_revoke(&first, &key.id).await;
    assert!(took < Duration::from_secs(2), "Revoke took {took:?} right after another replica left");
    println!("Revoke took {took:?} after another replica left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rolling_restart_delays_no_revoke_by_a_lease() {
    let (cluster, first, second) = Cluster::pair(Start::default().lease(20)).await;
    for replica in [&first, &second] {
        let key = cluster.warm_key().await;
        replica.stop();
        let other = if Arc::ptr_eq(replica, &first) { &second } else { &first };
        let took = time_of_revoke(other, &key.id).await;
        assert!(took < Duration::from_secs(2), "Revoke took {took:?}");
        replica.revive().expect("it starts again");
        assert_eq!(replica.code(&key.secret).await.expect("an answer"), Code::Revoked);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_replica_delays_revokes_by_its_lease_until_it_is_removed() {
    let (cluster, first, second) = Cluster::pair(Start::default()).await;
    let keys = [cluster.warm_key().await, cluster.warm_key().await];
    second.kill();
    let took = time_of_revoke(&first, &keys[0].id).await;
    assert!(took <= LEASE + LEASE_MARGIN + SLACK, "Revoke took {took:?}");
    first.logs("removing a replica whose lease expired").await;
    let mut database = cluster.database.connect().await;
    eventually(Duration::from_secs(5), "one row is left", async || {
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM keyward_replicas")
            .fetch_one(&mut database)
            .await
            .expect("a count");
        rows == 1
    })
    .await;
    let after = time_of_revoke(&first, &keys[1].id).await;
    assert!(after < LEASE / 2, "Revoke took {after:?} after the killed replica was removed");
    println!("Revoke took {took:?} after a replica was killed, {after:?} after it was removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replicas_row_survives_a_crash_of_a_postgres_with_asynchronous_commit() {
    let asynchronous = "-c synchronous_commit=off -c wal_writer_delay=10s";
    let database = tokio::task::block_in_place(|| Database::start(asynchronous));
    let cluster = Cluster::on(database, [Start::default().lease(20)]).await;
    let replica = &cluster.replicas[0];
    // Join again after everything else has been written to disk.
    let mut database = cluster.database.connect().await;
    for statement in ["DELETE FROM keyward_replicas", "CHECKPOINT"] {
        database.execute(statement).await.expect("Postgres does it");
    }
    replica.reconnect();
    eventually(Duration::from_secs(20), "the replica rejoins", async || {
        replica.log().matches("joined replica=").count() == 2
    })
    .await;
    let joined = replica.step(&mut database).await;
    assert!(joined.is_some());
    replica.proxy.silence(true);
    tokio::task::block_in_place(|| cluster.database.crash());
    tokio::task::block_in_place(|| cluster.database.restart());
    let mut database = cluster.database.connect().await;
    assert!(
        replica.step(&mut database).await.is_some(),
        "a crash lost the row of a replica whose lease may still hold"
    );
}
