//! Each guard of the protocol is needed: with the guard disabled, a scenario finds a revoked key VALID; with the guard, it
//! does not.
//!
//! A scenario returns whether a check that started after Revoke had returned OK answered VALID. `faults` names fault
//! switches, see `replica/fault_injection.rs`. A switch that begins with `slow_` or `no_` disables no guard; it
//! delays a step or leaves one out, both with and without the guard.

use std::{sync::Arc, time::Duration};

use keyward::proto::{Code, CreateRequest};
use sqlx::Executor as _;
use tokio::time::sleep;

use crate::{
    cluster::{Cluster, Start, attached_code, code},
    support::{
        grpc::{self, made},
        server::ROOT,
    },
};

/// How often a scenario is tried without its guard until it finds a revoked key VALID. On a busy machine, one attempt may
/// miss the short time in which the key is VALID.
pub const ATTEMPTS: usize = 3;

/// Runs a scenario with the guard and without it, concurrently.
macro_rules! guard_is_needed {
    ($test:ident, $guard:literal, $scenario:expr) => {
        guard_is_needed!($test, $guard, with "", $scenario);
    };
    ($test:ident, $guard:literal, with $slow:literal, $scenario:expr) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $test() {
            let scenario = $scenario;
            let without = async {
                for _ in 0..$crate::guards::ATTEMPTS {
                    if scenario(concat!($guard, ",", $slow)).await {
                        return true;
                    }
                }
                false
            };
            let (with, without) = tokio::join!(scenario($slow), without);
            assert!(!with, "a revoked key was VALID with every guard enabled");
            assert!(without, "the scenario does not show that {} is needed", $guard);
        }
    };
}

pub(crate) use guard_is_needed;

/// A replica has lost its database without noticing, and continues to answer from its cache.
async fn cut_off(faults: &str) -> bool {
    let (cluster, first, second) = Cluster::pair(Start::without(faults).lease(2)).await;
    let key = cluster.warm_key().await;
    second.proxy.silence(true);
    first.revoke(&key.id).await;
    second.answers_valid_within(Duration::from_millis(200), &key.secret).await
}

/// The same with a client that holds the key in its own memory, and goes on asking its replica for time.
async fn cut_off_with_a_client(faults: &str) -> bool {
    let (cluster, first, second) = Cluster::pair(Start::without(faults).lease(2)).await;
    let key = cluster.warm_key().await;
    let client = second.attached();
    let verify = async || attached_code(&client, &key.secret, Duration::from_millis(50)).await;
    let kept = || client.attach_status().is_some_and(|status| status.live && status.keys == 1);
    grpc::eventually(Duration::from_secs(20), "the client holds the key", async || verify().await.is_ok() && kept())
        .await;
    second.proxy.silence(true);
    let in_use = async {
        loop {
            let _ = verify().await;
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = first.revoke(&key.id) => {}
        () = in_use => {}
    }
    for _ in 0..20 {
        if verify().await.is_ok_and(|code| code == Code::Valid) {
            return true;
        }
        sleep(Duration::from_millis(10)).await;
    }
    false
}

guard_is_needed!(a_grant_ends_with_the_lease_of_its_replica, "attach_lease", cut_off_with_a_client);
guard_is_needed!(revoke_waits_for_a_replica_that_is_cut_off, "acknowledge", cut_off);
guard_is_needed!(revoke_waits_for_the_whole_lease_of_a_replica_that_is_cut_off, "whole_wait", cut_off);
guard_is_needed!(the_cache_does_not_answer_after_the_lease_has_expired, "lease", cut_off);

/// No fault.
async fn no_fault(faults: &str) -> bool {
    let (cluster, first, second) = Cluster::pair(Start::without(faults)).await;
    let key = cluster.warm_key().await;
    first.revoke(&key.id).await;
    second.answers_valid_within(Duration::from_millis(200), &key.secret).await
}

guard_is_needed!(a_replica_applies_the_changes_that_it_reports, "apply", no_fault);

/// The database's replies to one replica are delayed, but within the replica's timeout.
async fn late_replies(faults: &str) -> bool {
    let (cluster, first, second) = Cluster::pair(Start::without(faults).lease(3)).await;
    let mut keys = Vec::new();
    for _ in 0..25 {
        keys.push(cluster.warm_key().await);
    }
    second.proxy.delay_replies(Duration::from_millis(1_350));
    sleep(Duration::from_secs(2)).await;
    // Revoke at every phase of the replica's renewal cycle.
    let checks = keys.into_iter().map(|key| {
        let (first, second) = (Arc::clone(&first), Arc::clone(&second));
        tokio::spawn(async move {
            first.revoke(&key.id).await;
            second.answers_valid_within(Duration::from_millis(1_500), &key.secret).await
        })
    });
    let mut running = Vec::new();
    for check in checks {
        running.push(check);
        sleep(Duration::from_millis(120)).await;
    }
    let mut violated = false;
    for check in running {
        violated |= check.await.expect("the check ends");
    }
    violated
}

guard_is_needed!(the_lease_counts_from_before_the_renewal_is_sent, "count_from_before", late_replies);
guard_is_needed!(changes_are_read_after_the_renewal, "renew_before_read", late_replies);

/// A look-up is in flight while its key is revoked, and its caller has given up.
async fn overtaken_look_up(faults: &str) -> bool {
    let (_cluster, first, second) = Cluster::pair(Start::without(faults)).await;
    let key = made(grpc::create(&mut first.client(), ROOT, CreateRequest::default()).await);
    second.proxy.hold_replies_to(&keyward::domain::secret::digest(&key.secret).0);
    let given_up = code(&mut second.client(), &key.secret, Duration::from_millis(400)).await;
    given_up.expect_err("the reply to the look-up is held back");
    first.revoke(&key.id).await;
    second.proxy.release();
    sleep(Duration::from_millis(200)).await;
    second.answers_valid_within(Duration::from_millis(200), &key.secret).await
}

guard_is_needed!(a_look_up_that_a_revocation_overtakes_does_not_fill_the_cache, "fill_fence", overtaken_look_up);

/// A replica is cut off until its peers remove its row, and comes back.
async fn removed_and_back(faults: &str) -> bool {
    let (cluster, first, second) = Cluster::pair(Start::without(faults)).await;
    let key = cluster.warm_key().await;
    second.proxy.silence(true);
    first.logs("removing a replica whose lease expired").await;
    first.revoke(&key.id).await;
    second.reconnect();
    // Do not verify earlier: without a lease the replica would look the key up, and cache the new row.
    second.is_ready_within(Duration::from_secs(10)).await;
    second.answers_valid_within(Duration::from_millis(300), &key.secret).await
}

guard_is_needed!(a_replica_that_rejoins_clears_its_cache, "join_clear", removed_and_back);

/// The database falls back to an earlier state, as after a failover to a standby that lagged behind.
async fn lost_history(faults: &str) -> bool {
    let (cluster, first, second) = Cluster::pair(Start::without(faults)).await;
    let key = cluster.warm_key().await;
    for _ in 0..3 {
        let other = cluster.warm_key().await;
        first.revoke(&other.id).await;
    }
    // Cut off both replicas while it happens, since a failover breaks every connection.
    for replica in [&first, &second] {
        replica.proxy.silence(true);
    }
    let mut database = cluster.database.connect().await;
    let back = "UPDATE keyward_replicas SET step = 0, seen_revision = 0; UPDATE keyward_revision SET value = 0; \
                ALTER TABLE keyward_keys DISABLE TRIGGER keyward_keys_revision; \
                UPDATE keyward_keys SET revision = 0; \
                ALTER TABLE keyward_keys ENABLE TRIGGER keyward_keys_revision";
    database.execute(sqlx::raw_sql(back)).await.expect("history is lost");
    for replica in [&first, &second] {
        replica.reconnect();
    }
    sleep(Duration::from_millis(700)).await;
    first.revoke(&key.id).await;
    second.answers_valid_within(Duration::from_millis(400), &key.secret).await
}

guard_is_needed!(a_replica_notices_that_the_database_lost_history, "lost_history", lost_history);

/// A replica comes back just before a peer removes its row, renews, and is cut off again.
async fn removed_late(faults: &str) -> bool {
    let (cluster, first, second) = Cluster::pair(Start::without(faults)).await;
    let key = cluster.warm_key().await;
    let mut database = cluster.database.connect().await;
    second.signal("STOP");
    first.logs("removing a replica whose lease expired").await;
    let before = second.step(&mut database).await;
    second.signal("CONT");
    let bound = Duration::from_secs(5);
    grpc::eventually(bound, "the replica renews", async || second.step(&mut database).await > before).await;
    // Long enough to read and apply, too short to renew again.
    sleep(Duration::from_millis(60)).await;
    second.proxy.silence(true);
    sleep(Duration::from_millis(450)).await;
    first.revoke(&key.id).await;
    second.answers_valid_within(Duration::from_millis(100), &key.secret).await
}

guard_is_needed!(a_replica_that_renews_is_not_removed, "remove_by_step", with "slow_remove", removed_late);

/// A replica regains its database while a check is in flight.
async fn back_during_a_check(faults: &str) -> bool {
    let (cluster, first, second) = Cluster::pair(Start::without(faults)).await;
    let key = cluster.warm_key().await;
    second.proxy.silence(true);
    first.revoke(&key.id).await;
    let (asked, secret) = (Arc::clone(&second), key.secret.clone());
    // This must be the first check since then: an earlier look-up would have replaced the cached key.
    let asked = tokio::spawn(async move { asked.code(&secret).await });
    sleep(Duration::from_millis(100)).await;
    second.reconnect();
    asked.await.expect("the check ends").is_ok_and(|code| code == Code::Valid)
}

guard_is_needed!(the_lease_is_checked_before_the_cache_is_read, "lease_first", with "slow_cache_read", back_during_a_check);

/// A replica regains its database, and no check arrives before its cache may answer. Its peer leaves its row alone: if
/// it had to join again, its cache would be empty.
async fn back_again(faults: &str) -> bool {
    let (cluster, first, second) = Cluster::pair(Start::without(faults).lease(3)).await;
    let key = cluster.warm_key().await;
    second.proxy.silence(true);
    first.revoke(&key.id).await;
    second.reconnect();
    // Without the guard, the key is VALID from this moment until the change is applied.
    second.has_lease_within(Duration::from_secs(10)).await;
    second.answers_valid_within(Duration::from_millis(300), &key.secret).await
}

guard_is_needed!(changes_are_applied_before_the_lease_is_extended, "extend_after_apply", with "slow_apply,no_removal", back_again);
