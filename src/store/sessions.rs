//! Sessions of the dashboard: what the store takes and returns, and its verbs.

use async_trait::async_trait;

use super::error::Result;
use crate::domain::{
    clock::Micros,
    dashboard::{DashboardSession, Person, SessionId},
};

/// The result of refreshing a person's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshedPerson {
    /// The person as of the new token.
    pub person: Person,
    /// The claim under which it was refreshed.
    pub claim: Micros,
}

/// The verbs about sessions of the dashboard. The rules of [`Store`](super::Store) apply.
#[async_trait]
pub trait SessionStore {
    /// Writes a new session.
    async fn create_session(&self, session: DashboardSession) -> Result<()>;

    /// Reads a session, even one that has expired (case `a_session_reads_back_whole`).
    async fn find_session(&self, id: SessionId) -> Result<Option<DashboardSession>>;

    /// Records a use: when the session was last used, and when it ends unless it is used again. It MUST only move
    /// forward (case `a_use_of_a_session_only_moves_forward`).
    async fn touch_session(&self, id: SessionId, seen: Micros, idle_at: Micros) -> Result<()>;

    /// Deletes a session of this actor. Returns whether there was one. A session of another actor MUST stay (case
    /// `only_the_actors_own_session_is_ended`).
    async fn end_session(&self, id: SessionId, actor: String) -> Result<bool>;

    /// Deletes at most `limit` sessions that ended before `now`. Returns how many. Live sessions MUST stay (case
    /// `ended_sessions_are_deleted_in_batches`).
    async fn delete_ended_sessions(&self, now: Micros, limit: u32) -> Result<u64>;

    /// Reads at most `limit` live sessions of an actor, newest first.
    async fn sessions_of(&self, actor: String, now: Micros, limit: u32) -> Result<Vec<DashboardSession>>;

    /// Claims the right to refresh a session's token until `until`. Of concurrent calls one MUST get it (case
    /// `a_refresh_is_claimed_by_one`). An expired claim MUST be available again.
    async fn claim_refresh(&self, id: SessionId, now: Micros, until: Micros) -> Result<bool>;

    /// Writes the result of the refresh, and releases the claim. Returns whether the claim still held. A claim that was
    /// taken over MUST change nothing (case `a_lost_refresh_changes_nothing`).
    async fn finish_refresh(&self, id: SessionId, refreshed: RefreshedPerson) -> Result<bool>;

    /// Records that a form was used. Returns whether this is its first use. Of concurrent calls with one form, one MUST
    /// be first (case `a_form_is_spent_once`). Only the newest 20 forms of a session are stored.
    async fn spend_form(&self, id: SessionId, form: String) -> Result<bool>;
}
