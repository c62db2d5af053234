//! The conformance suite: the same cases on each backend, and tests of one backend alone.

#![expect(clippy::unwrap_used, reason = "a case that cannot continue fails at that line")]

mod batches;
mod change;
mod create;
mod dashboard_plans;
#[path = "../support/database.rs"]
mod database;
mod deliveries;
mod event_pages;
mod event_plans;
mod events;
mod fixture;
mod follower;
mod list;
mod migrations;
mod outage;
mod pinned;
mod plans;
mod postgres_only;
#[path = "../support/proxy.rs"]
mod proxy;
mod roles;
mod search;
mod sessions;
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

        /// As behind a transaction pooler: each call is a transaction, and no statement stays prepared.
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
    create: a_new_key_reads_back_whole, a_rate_limit_out_of_bounds_is_an_error, create_is_idempotent_by_id,
        digest_collision, an_id_is_never_used_for_another_key, find_by_digest, one_installation_wins,
        one_installation_move_wins, one_first_root_key, no_first_root_key_beside_a_key,
        first_root_key_is_idempotent_by_id, an_organization_has_no_more_keys_than_its_bound,
        a_bounded_creation_is_idempotent_by_id;
    batches: concurrent_creations_have_their_own_results, concurrent_revocations_have_their_own_results,
        concurrent_changes_do_not_deadlock;
    change: a_revoked_key_has_time_reason_and_actor, second_revoke_changes_nothing, two_revokes_at_once,
        the_first_webhook_ever_makes_the_first_version, two_rotations_from_one_version_rotate_once, webhook_of_dead_key, usage_keeps_the_latest,
        usage_of_many_writers_adds_up, usage_leaves_revisions_alone, revision_order, keys_are_never_deleted;
    list: a_page_passes_keys_that_cannot_be_read, a_page_reads_a_bounded_number_of_rows, every_filter_shape, a_status_is_evaluated_at_the_time_of_the_query, pages_stay_stable, case_pairs, a_page_has_a_limit;
    events: creating_a_key_writes_its_event, the_first_root_key_writes_its_event, only_the_first_revocation_writes_an_event, a_webhook_change_writes_an_event,
        only_the_webhook_that_refused_is_disabled, an_event_that_happens_once_is_written_once, keys_by_their_expiry, events_without_a_key_are_written_once, a_pending_delivery_keeps_its_event,
        a_watermark_only_advances, a_job_lease_has_one_holder;
    event_pages: every_event_filter_shape, a_page_passes_events_that_cannot_be_read,
        a_page_of_events_reads_a_bounded_number_of_rows;
    deliveries: each_event_of_a_key_with_a_webhook_has_a_delivery, events_after_a_removed_webhook_have_no_delivery,
        a_delivery_is_claimed_by_one, an_unsettled_claim_becomes_due_again, busy_hosts_are_skipped,
        each_spelling_of_a_host_is_one_host, a_delivery_without_a_host_gets_it_with_its_first_claim,
        a_lost_claim_settles_nothing, a_late_settlement_is_not_taken_for_a_later_claim,
        a_delivery_that_cannot_be_read_is_ended_alone, a_delivery_of_an_unknown_type_is_left_to_newer_versions, a_released_claim_counts_no_attempt, a_redelivery_counts_attempts_anew, a_redelivery_is_an_event_without_a_delivery;
    sweep: each_expiry_has_one_event_with_any_number_of_replicas, keys_that_expired_before_the_first_sweep_have_no_event,
        more_expiries_than_one_batch_all_have_events, a_key_that_becomes_visible_late_has_its_event, rate_limit_refusals_have_one_event_for_each_window,
        old_events_are_deleted_and_one_replica_sweeps, a_sweep_deletes_ended_sessions;
    sessions: a_session_reads_back_whole, ended_sessions_are_deleted_in_batches, a_use_of_a_session_only_moves_forward,
        only_the_actors_own_session_is_ended, a_refresh_is_claimed_by_one, a_lost_refresh_changes_nothing,
        a_form_is_spent_once;
    search: a_search_finds_names_by_their_beginning, a_search_has_the_filters_of_a_list, a_search_finds_prefixes_and_expiries,
        a_search_reads_a_bounded_number_of_rows,
        keys_are_counted_by_status_and_day;
    outage: a_dropped_callers_write_still_lands, a_closed_store_is_unavailable;
}

/// A rule of the traits' documentation must have a case that shows it.
#[test]
fn every_case_that_the_trait_names_exists() {
    let rules = [
        include_str!("../../src/store/keys.rs"),
        include_str!("../../src/store/events.rs"),
        include_str!("../../src/store/database.rs"),
        include_str!("../../src/store/sessions.rs"),
    ]
    .concat();
    let cases = include_str!("main.rs");
    let named: Vec<_> = rules.split("case `").skip(1).filter_map(|rest| rest.split('`').next()).collect();
    assert!(named.len() > 10, "{named:?}");
    for name in named {
        let listed = |end: &str| cases.contains(&format!(" {name}{end}"));
        assert!(listed(",") || listed(";"), "{name}");
    }
}
