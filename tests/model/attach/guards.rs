//! Each rule is needed: without it the checker finds a Verify that answers VALID after the Revoke returned.

use crate::{
    check,
    protocol::Protocol,
    rules::{Hazard, Rule, Setting},
};

const PLAIN: Setting = Setting::PLAIN;

fn with(hazard: Hazard) -> Setting {
    PLAIN.with(&[hazard])
}

/// One process that owns its database.
fn single() -> Setting {
    Setting { single: true, grant: 2, ..PLAIN }
}

/// An old session that is still used, and a new one: of one process, which is the smallest world that has two.
fn two_sessions() -> Setting {
    Setting { sessions: 2, grant: 1, ..single() }
}

/// Asserts that the instance breaks the promise without this rule.
#[track_caller]
fn caught(setting: Setting, rule: Rule) {
    let actions = check(Protocol::new(setting).without(rule)).unwrap_or_else(|| panic!("{rule:?} is not needed"));
    println!("without {rule:?}: {actions:?}");
}

macro_rules! guards {
    ($($name:ident: $setting:expr, $rule:ident;)*) => {$(
        #[test]
        fn $name() {
            caught($setting, Rule::$rule);
        }
    )*};
}

guards! {
    a_session_that_is_registered_late_is_caught: PLAIN, RegisterBeforeReading;
    a_grant_that_outlives_the_lease_is_caught: Setting { grant: 2, ..PLAIN }, GrantWithinLease;
    a_grant_under_a_renewal_in_progress_is_caught: PLAIN, GrantWithinExtendedLease;
    a_grant_that_is_recorded_late_is_caught: PLAIN, RecordWithGrant;
    an_invalidation_before_the_replicas_own_clear_is_caught: PLAIN, ClearBeforeEnqueue;
    a_lease_extended_before_the_invalidation_is_caught: PLAIN, EnqueueBeforeExtend;
    an_interest_that_is_noted_late_is_caught: PLAIN, InterestWithFill;
    a_report_that_does_not_wait_is_caught: PLAIN, ReportWaits;
    a_wait_without_a_margin_is_caught: Setting { margin: 1, slow_ticks: 1, ..PLAIN }, WaitHasMargin;
    a_forgotten_session_is_caught: PLAIN, GhostsCount;
    a_grant_that_overtakes_is_caught: PLAIN, GrantsInOrder;
    an_answer_that_is_overtaken_is_caught: PLAIN, FillsInOrder;
    a_message_that_is_dropped_is_caught: PLAIN, FullQueueEndsSession;
    an_answer_that_ignores_the_change_position_is_caught: PLAIN, AnswerChecksSeq;
    a_change_position_that_is_checked_too_early_is_caught: PLAIN, CheckWithEnqueue;
    a_lost_row_that_is_deleted_at_once_is_caught: with(Hazard::Lost), LostRowOutlivesGrants;
    a_join_that_does_not_clear_sessions_is_caught: with(Hazard::Lost), JoinClearsSessions;
    a_replica_that_leaves_at_once_is_caught: with(Hazard::Leave), LeaveWaits;
    a_revoke_of_a_single_process_that_does_not_wait_is_caught: single(), SingleRevokeWaits;
    a_start_that_ignores_earlier_grants_is_caught: single().with(&[Hazard::Death]), StartWaits;
    a_grant_counted_from_its_reply_is_caught: Setting { grant: 2, ..PLAIN }, CountBeforeAsking;
    a_grant_of_an_earlier_renewal_is_caught: Setting { grant: 2, ..PLAIN }, GrantMatchesRenewal;
    an_acknowledgement_before_the_removal_is_caught: PLAIN, ClearBeforeAcknowledge;
    an_answer_that_is_inserted_late_is_caught: PLAIN, ReaderInserts;
    a_verify_that_reads_the_entry_first_is_caught: PLAIN, DeadlineBeforeEntry;
    an_answer_of_a_call_in_the_cache_is_caught: PLAIN, OwnStreamFills;
    a_verify_that_joins_an_old_look_up_is_caught: PLAIN, JoinNeedsDeadline;
    a_new_session_with_the_old_cache_is_caught: two_sessions(), SessionStartsEmpty;
    a_new_session_with_the_old_deadline_is_caught: two_sessions(), SessionStartsWithoutDeadline;
    a_stop_before_the_end_of_the_deadline_is_caught: with(Hazard::ClientStops), EndBeforeStopped;
}
