//! Each guard of the protocol is needed: with it taken away, a scenario finds a revoked key VALID; with it, it does not.
//!
//! A scenario answers whether it saw a VALID to a check that started after Revoke had returned OK. What a name in
//! `faults` takes away is told where `fault_injection::off` names it; a name that begins with `slow_` takes nothing away, but makes
//! a step take long, with the guard as without.

use std::{sync::Arc, time::Duration};

use keyward::proto::{Code, CreateRequest};
use sqlx::Executor as _;
use tokio::time::sleep;

use crate::{
    cluster::{Cluster, Start, code},
    support::{
        grpc::{self, made},
        server::ROOT,
    },
};

/// Runs a scenario with the guard and without it, at once.
macro_rules! guard_is_needed {
    ($test:ident, $guard:literal, $scenario:expr) => {
        guard_is_needed!($test, $guard, with "", $scenario);
    };
    ($test:ident, $guard:literal, with $slow:literal, $scenario:expr) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $test() {
            let scenario = $scenario;
            let (with, without) = tokio::join!(scenario($slow), scenario(concat!($guard, ",", $slow)));
            assert!(!with, "a revoked key was VALID though every guard stands");
            assert!(without, "the scenario does not show that {} is needed", $guard);
        }
    };
}

/// A replica that has lost its database, unseen, and goes on answering from memory.
async fn cut_off(faults: &str) -> bool {
    let (cluster, first, second) = Cluster::pair(Start::without(faults).lease(2)).await;
    let key = cluster.warm_key().await;
    second.proxy.silence(true);
    first.revoke(&key.id).await;
    second.answers_valid_within(Duration::from_millis(200), &key.secret).await
}

guard_is_needed!(revoke_waits_for_a_replica_that_is_cut_off, "acknowledge", cut_off);
guard_is_needed!(revoke_waits_the_whole_lease_of_a_replica_that_is_cut_off, "whole_wait", cut_off);
guard_is_needed!(memory_does_not_answer_past_the_lease, "lease", cut_off);

/// Nothing is wrong.
async fn all_is_well(faults: &str) -> bool {
    let (cluster, first, second) = Cluster::pair(Start::without(faults)).await;
    let key = cluster.warm_key().await;
    first.revoke(&key.id).await;
    second.answers_valid_within(Duration::from_millis(200), &key.secret).await
}

guard_is_needed!(a_replica_applies_what_it_acknowledges, "apply", all_is_well);

/// The database answers one replica late all the time, but within what it waits for.
async fn late_replies(faults: &str) -> bool {
    let (cluster, first, second) = Cluster::pair(Start::without(faults).lease(3)).await;
    let mut keys = Vec::new();
    for _ in 0..25 {
        keys.push(cluster.warm_key().await);
    }
    second.proxy.delay_replies(Duration::from_millis(1_350));
    sleep(Duration::from_secs(2)).await;
    // At every phase of the replica's cycle.
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

/// A look-up is under way while the key is revoked, and nobody waits for it any more.
async fn overtaken_look_up(faults: &str) -> bool {
    let (_cluster, first, second) = Cluster::pair(Start::without(faults)).await;
    let key = made(grpc::create(&mut first.client(), ROOT, CreateRequest::default()).await);
    second.proxy.hold_replies_to(&keyward::domain::secret::digest(&key.secret).0);
    let given_up = code(&mut second.client(), &key.secret, Duration::from_millis(400)).await;
    given_up.expect_err("the look-up is held back");
    first.revoke(&key.id).await;
    second.proxy.release();
    sleep(Duration::from_millis(200)).await;
    second.answers_valid_within(Duration::from_millis(200), &key.secret).await
}

guard_is_needed!(a_look_up_that_a_revocation_overtook_is_not_kept, "fill_fence", overtaken_look_up);

/// A replica is away until its peers take it for dead, and comes back.
async fn back_from_the_dead(faults: &str) -> bool {
    let (cluster, first, second) = Cluster::pair(Start::without(faults)).await;
    let key = cluster.warm_key().await;
    second.proxy.silence(true);
    first.logs("removing a replica whose lease expired").await;
    first.revoke(&key.id).await;
    second.reconnect();
    // Not asked before: without a lease it would look the key up, and keep what it found.
    second.is_ready_within(Duration::from_secs(10)).await;
    second.answers_valid_within(Duration::from_millis(300), &key.secret).await
}

guard_is_needed!(a_replica_that_joins_anew_forgets_what_it_held, "join_clear", back_from_the_dead);

/// The database goes back to an earlier state of itself, as after a failover to a standby that lagged.
async fn lost_history(faults: &str) -> bool {
    let (cluster, first, second) = Cluster::pair(Start::without(faults)).await;
    let key = cluster.warm_key().await;
    for _ in 0..3 {
        let other = cluster.warm_key().await;
        first.revoke(&other.id).await;
    }
    // Both are cut off while it happens: a failover breaks every connection.
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

/// A replica comes back at the moment at which a peer is about to remove it, renews, and is cut off again.
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
    // Time to read and apply, but not to renew again.
    sleep(Duration::from_millis(60)).await;
    second.proxy.silence(true);
    sleep(Duration::from_millis(450)).await;
    first.revoke(&key.id).await;
    second.answers_valid_within(Duration::from_millis(100), &key.secret).await
}

guard_is_needed!(a_replica_that_renews_is_not_removed, "remove_by_step", with "slow_remove", removed_late);

/// A replica gets its database back while a check is under way.
async fn back_in_the_middle(faults: &str) -> bool {
    let (cluster, first, second) = Cluster::pair(Start::without(faults)).await;
    let key = cluster.warm_key().await;
    second.proxy.silence(true);
    first.revoke(&key.id).await;
    let (asked, secret) = (Arc::clone(&second), key.secret.clone());
    // The first one since: a look-up before it would have replaced the key.
    let asked = tokio::spawn(async move { asked.code(&secret).await });
    sleep(Duration::from_millis(100)).await;
    second.reconnect();
    asked.await.expect("the check ends").is_ok_and(|code| code == Code::Valid)
}

guard_is_needed!(the_lease_is_looked_at_before_the_key, "lease_first", with "slow_recall", back_in_the_middle);

/// A replica gets its database back, and nobody asks before it may answer from memory.
async fn back_again(faults: &str) -> bool {
    let (cluster, first, second) = Cluster::pair(Start::without(faults)).await;
    let key = cluster.warm_key().await;
    second.proxy.silence(true);
    first.revoke(&key.id).await;
    second.reconnect();
    second.is_ready_within(Duration::from_secs(10)).await;
    second.answers_valid_within(Duration::from_millis(300), &key.secret).await
}

guard_is_needed!(changes_are_applied_before_the_lease_is_extended, "extend_after_apply", with "slow_apply", back_again);
