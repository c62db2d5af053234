//! Each rule is needed: without it the checker finds a Verify that gives a forbidden answer.

use crate::check;
use crate::protocol::Protocol;
use crate::rules::{Hazard, Rule, Setting};
use crate::state::Broken;

/// Asserts that the instance breaks the promise without these rules.
fn caught(setting: Setting, rules: &[Rule]) {
    assert_eq!(broken(setting, rules), Some(Broken::AfterReturn));
}

/// Asserts that the instance keeps the promise without these rules, because other rules have the same effect.
fn redundant(setting: Setting, rules: &[Rule]) {
    assert_eq!(broken(setting, rules), None);
}

fn broken(setting: Setting, rules: &[Rule]) -> Option<Broken> {
    let (broken, actions) = check(Protocol::new(setting).without(rules))?;
    println!("without {rules:?}: {actions:?}");
    Some(broken)
}

fn clean_up() -> Setting {
    Setting::PLAIN.with(&[Hazard::CleanUp])
}

fn lost_history() -> Setting {
    Setting::PLAIN.with(&[Hazard::LostHistory])
}

fn two_keys() -> Setting {
    Setting { keys: 2, ..Setting::PLAIN }
}

/// Follow and extend.
mod follow {
    use super::{Hazard, Rule, Setting, caught, clean_up, redundant, two_keys};

    #[test]
    fn a_follower_that_reads_before_it_renews_is_caught() {
        caught(Setting::PLAIN, &[Rule::RenewBeforeRead]);
    }

    /// The statement sees the database as it was before its own commit. That alone would be harmless, because the lease
    /// counts from before it. But the statement cannot show whether it was committed.
    #[test]
    fn a_follower_that_renews_and_reads_in_one_statement_is_caught() {
        let setting = Setting::PLAIN.with(&[Hazard::Uncommitted]);
        caught(setting, &[Rule::ReadApart]);
    }

    #[test]
    fn one_statement_is_enough_if_an_answer_implies_a_commit() {
        let setting = clean_up().with(&[Hazard::Strays, Hazard::Death]);
        redundant(setting, &[Rule::ReadApart]);
    }

    /// The counterexample needs a clean-up, which watches the step from the commit of the renewal on. Without a clean-up,
    /// counting from before the read would be enough.
    #[test]
    fn a_lease_counted_from_the_reply_of_its_renewal_is_caught() {
        caught(clean_up(), &[Rule::CountBeforeSend]);
    }

    #[test]
    fn a_follower_that_extends_before_it_applies_is_caught() {
        caught(Setting::PLAIN, &[Rule::ApplyBeforeExtend]);
    }

    #[test]
    fn a_follower_that_reports_before_it_applies_is_caught() {
        caught(Setting::PLAIN, &[Rule::ApplyBeforeReport]);
    }

    #[test]
    fn a_follower_that_reads_one_page_and_extends_is_caught() {
        caught(two_keys(), &[Rule::ReadToTheEnd]);
    }

    #[test]
    fn a_renewal_that_is_not_committed_and_extends_is_caught() {
        let setting = clean_up().with(&[Hazard::Uncommitted]);
        caught(setting, &[Rule::RenewalShows]);
    }

    #[test]
    fn a_renewal_that_finds_no_row_and_extends_is_caught() {
        caught(clean_up(), &[Rule::RenewalFindsItsRow, Rule::RenewalShows]);
    }

    #[test]
    fn a_renewal_whose_row_count_is_ignored_extends_nothing_when_it_does_not_show() {
        let setting = clean_up().with(&[Hazard::Uncommitted, Hazard::Death]);
        redundant(setting, &[Rule::RenewalFindsItsRow]);
    }

    #[test]
    fn revisions_that_do_not_grow_in_the_order_of_commits_are_caught() {
        caught(two_keys(), &[Rule::RevisionsInCommitOrder]);
    }
}

/// Verify and its look-ups.
mod verify {
    use super::{Broken, Rule, Setting, broken, caught, lost_history};

    #[test]
    fn a_verify_that_reads_the_entry_before_it_checks_the_lease_is_caught() {
        caught(Setting::PLAIN, &[Rule::LeaseBeforeEntry]);
    }

    #[test]
    fn a_verify_that_trusts_a_flag_set_by_a_timer_is_caught() {
        caught(Setting::PLAIN, &[Rule::VerifyReadsClock]);
    }

    #[test]
    fn a_clock_that_stops_while_the_machine_sleeps_is_caught() {
        caught(Setting::PLAIN, &[Rule::ClockCountsSleep]);
    }

    #[test]
    fn a_fill_that_a_removal_does_not_fence_is_caught() {
        caught(Setting::PLAIN, &[Rule::RemoveFences]);
    }

    #[test]
    fn a_fill_that_a_clear_does_not_fence_is_caught() {
        caught(Setting::PLAIN, &[Rule::ClearFences]);
    }

    #[test]
    fn a_verify_that_joins_a_statement_already_sent_is_caught() {
        caught(Setting::PLAIN, &[Rule::OwnStatement]);
    }

    #[test]
    fn a_waiting_verify_that_uses_a_row_older_than_an_applied_change_is_caught() {
        let broken = broken(Setting::PLAIN, &[Rule::WaiterHeedsFence]);
        assert_eq!(broken, Some(Broken::AfterApply));
    }

    #[test]
    fn a_look_up_on_a_standby_is_caught() {
        caught(lost_history(), &[Rule::LookUpsOnPrimary]);
    }
}

/// Revoke.
mod revoke {
    use super::{Broken, Hazard, Rule, Setting, broken, caught};

    #[test]
    fn a_revoke_that_waits_for_nothing_is_caught() {
        caught(Setting::PLAIN, &[Rule::RevokeWaits]);
    }

    #[test]
    fn a_revoke_that_waits_for_the_first_replica_only_is_caught() {
        let setting = Setting { replicas: 2, ..Setting::PLAIN };
        caught(setting, &[Rule::RevokeWaitsForEach]);
    }

    #[test]
    fn a_revoke_that_waits_for_less_than_the_lease_is_caught() {
        let setting = Setting { lease: 2, ..Setting::PLAIN };
        caught(setting, &[Rule::WaitCoversLease]);
    }

    #[test]
    fn a_revoke_without_a_margin_for_slow_clocks_is_caught() {
        let setting = Setting { lease: 2, margin: 1, slow_ticks: 1, ..Setting::PLAIN };
        caught(setting, &[Rule::WaitHasMargin]);
    }

    #[test]
    fn a_wait_counted_from_before_the_commit_is_caught() {
        caught(Setting::PLAIN, &[Rule::WaitAfterCommit]);
    }

    #[test]
    fn a_revoke_that_reads_the_rows_before_its_commit_is_caught() {
        caught(Setting::PLAIN, &[Rule::RowsAfterCommit]);
    }

    #[test]
    fn a_repeated_revoke_that_returns_at_once_is_caught() {
        let setting = Setting::PLAIN.with(&[Hazard::Retry]);
        caught(setting, &[Rule::RetryWaits]);
    }

    #[test]
    fn a_cache_that_answers_after_its_lease_is_caught_even_if_no_revoke_returns() {
        let setting = Setting { ages: true, ..Setting::PLAIN };
        let broken = broken(setting, &[Rule::VerifyReadsClock]);
        assert_eq!(broken, Some(Broken::OlderThanLease));
    }
}

/// Join, leave and die.
mod join {
    use super::{Hazard, Rule, Setting, caught, clean_up};

    #[test]
    fn a_join_that_does_not_clear_is_caught() {
        caught(clean_up(), &[Rule::JoinClears]);
    }

    #[test]
    fn a_join_that_clears_before_it_reads_the_revision_is_caught() {
        caught(Setting::PLAIN, &[Rule::RevisionBeforeClear]);
    }

    #[test]
    fn a_join_that_extends_before_it_clears_is_caught() {
        caught(clean_up(), &[Rule::ClearBeforeExtend]);
    }

    #[test]
    fn a_join_that_clears_before_it_inserts_its_row_is_caught() {
        caught(Setting::PLAIN, &[Rule::InsertBeforeClear]);
    }

    #[test]
    fn a_join_that_is_not_committed_and_extends_is_caught() {
        let setting = Setting::PLAIN.with(&[Hazard::Uncommitted]);
        caught(setting, &[Rule::JoinShows]);
    }

    /// A clean-up that still watches the replica's former row mistakes the new row for it.
    #[test]
    fn a_join_under_a_used_id_is_caught() {
        caught(clean_up().with(&[Hazard::Leave]), &[Rule::JoinTakesNewId]);
    }

    #[test]
    fn a_replica_that_deletes_its_row_before_it_stops_answering_is_caught() {
        let setting = Setting::PLAIN.with(&[Hazard::Leave]);
        caught(setting, &[Rule::StopBeforeDelete]);
    }

    #[test]
    fn a_clean_up_that_watches_for_less_than_a_lease_is_caught() {
        let setting = Setting { lease: 2, ..clean_up() };
        caught(setting, &[Rule::WatchCoversLease]);
    }

    #[test]
    fn a_clean_up_that_deletes_whatever_the_step_is_caught() {
        caught(clean_up(), &[Rule::DeleteNamesStep]);
    }

    #[test]
    fn a_clean_up_that_compares_the_step_in_a_sub_select_is_caught() {
        caught(clean_up(), &[Rule::DeleteComparesItself]);
    }
}

/// Lost history.
mod loss {
    use super::{Hazard, Rule, caught, clean_up, lost_history, redundant};

    /// A step that went backwards reveals some losses. But the database may keep the last renewal and lose a later
    /// change that the replica has read. Its revision is then assigned to another change, which the replica never
    /// reads.
    #[test]
    fn a_replica_that_notices_only_a_step_that_went_backwards_is_caught() {
        caught(lost_history(), &[Rule::LostChangeRejoins]);
    }

    #[test]
    fn a_lost_change_that_is_recognized_by_its_revision_only_is_caught() {
        caught(lost_history(), &[Rule::LostChangeIsIdentified]);
    }

    #[test]
    fn a_backward_step_need_not_be_noticed_if_lost_changes_are() {
        let setting = clean_up().with(&[Hazard::LostHistory]);
        redundant(setting, &[Rule::BackwardStepRejoins]);
    }

    /// A clean-up has seen the step of a renewal that was lost, and deletes the row after another renewal wrote the
    /// same step.
    #[test]
    fn a_step_that_is_written_twice_is_caught() {
        let setting = clean_up().with(&[Hazard::LostHistory, Hazard::Strays]);
        caught(setting, &[Rule::StepsAreNotReused]);
    }

    /// The limit of the promise: the row of a replica is lost while its lease still holds. The same happens without a
    /// standby if a crash can lose the row, so joins and renewals must be as durable as revocations.
    #[test]
    fn a_revoke_within_a_lease_of_a_loss_would_be_caught() {
        caught(lost_history(), &[Rule::PromiseSuspendedAfterLoss]);
    }
}
