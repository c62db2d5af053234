//! The conformance suite: the same cases on every store, then what only one of them can show.

#![expect(clippy::unwrap_used, reason = "a case that cannot go on fails there and then")]

mod change;
mod create;
#[path = "../support/database.rs"]
mod database;
mod deliveries;
mod event_plans;
mod events;
mod fixture;
mod follower;
mod gathered;
mod list;
mod migrations;
mod outage;
mod plans;
mod postgres_only;
#[path = "../support/proxy.rs"]
mod proxy;
mod sqlite_only;
#[path = "../support/postgres.rs"]
mod support;
mod sweep;

/// Makes a test of each case for each backend.
macro_rules! on_both {
    ($($module:ident: $($case:ident),+;)+) => {
        mod postgres_store {
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    crate::$module::$case(crate::fixture::postgres().await).await;
                }
            )+)+
        }

        /// As behind a transaction pooler: each call is a transaction, and nothing stays on a connection.
        mod pooled_postgres_store {
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    crate::$module::$case(crate::fixture::pooled_postgres().await).await;
                }
            )+)+
        }

        mod sqlite_store {
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    crate::$module::$case(crate::fixture::sqlite().await).await;
                }
            )+)+
        }
    };
}

on_both! {
    create: a_new_key_reads_back_whole, a_limit_that_is_out_of_bounds_is_not_read, create_is_idempotent_by_id,
        digest_collision, an_id_is_never_given_to_another_key, find_by_digest, one_installation_wins,
        one_installation_move_wins, one_first_root_key, no_first_root_key_beside_a_key,
        first_root_key_is_idempotent_by_id;
    gathered: creations_at_once_end_each_in_its_own_way, revocations_at_once_end_each_in_its_own_way,
        changes_at_once_cross_nowhere;
    change: a_revoked_key_says_when_why_and_by_whom, second_revoke_changes_nothing, two_revokes_at_once,
        the_first_webhook_ever_makes_the_first_version, a_rotation_happens_once, webhook_of_dead_key, usage_keeps_the_latest,
        usage_of_many_writers_adds_up, usage_leaves_revisions_alone, revision_order, keys_are_never_deleted;
    list: every_filter_shape, a_status_is_meant_at_its_time, pages_stay_stable, case_pairs, a_page_has_a_limit;
    events: a_creation_tells, the_first_root_key_tells, a_revocation_tells_once, a_webhook_change_tells,
        only_the_webhook_that_refused_is_disabled, every_event_filter_shape,
        an_event_that_happens_once_is_written_once, keys_by_their_expiry, what_is_pending_is_not_deleted,
        a_mark_only_rises, turns_are_taken_one_at_a_time;
    deliveries: a_delivery_for_each_event_of_a_key_with_a_webhook, a_removed_webhook_is_told_nothing,
        a_delivery_is_claimed_by_one, an_unsettled_claim_becomes_due_again, busy_hosts_are_left_alone,
        a_lost_claim_settles_nothing, a_released_claim_counts_for_nothing, a_redelivery_begins_anew;
    sweep: an_expiry_is_told_once_by_any_number_of_replicas, what_was_past_is_no_news,
        more_keys_than_a_batch_are_all_told_of, a_key_that_shows_late_is_told_of, refusals_are_told_once_a_window,
        old_events_are_deleted_and_one_replica_sweeps;
    outage: a_dropped_callers_write_still_lands, a_closed_store_is_unavailable;
}

/// A rule without a case is a wish.
#[test]
fn every_case_that_the_trait_names_exists() {
    let rules = [include_str!("../../src/store/mod.rs"), include_str!("../../src/store/events.rs")].concat();
    let cases = include_str!("main.rs");
    let named: Vec<_> = rules.split("case `").skip(1).filter_map(|rest| rest.split('`').next()).collect();
    assert!(named.len() > 10, "{named:?}");
    for name in named {
        let listed = |end: &str| cases.contains(&format!(" {name}{end}"));
        assert!(listed(",") || listed(";"), "{name}");
    }
}
