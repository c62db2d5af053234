//! A person's token, refreshed by one request at a time.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::DashboardSessions;
use crate::{
    domain::{
        clock::{Micros, SECOND},
        dashboard::{DashboardSession, Person, SessionOwner},
        error::{Error, Result},
    },
    service::context::CallContext,
    session::{CodeFlowError, SignedIn},
    store::sessions::RefreshedPerson,
};

/// How long one request may hold the claim to refresh; afterwards another request may try.
const CLAIM_TIME: Micros = 15 * SECOND;
/// Timeout of the issuer's answer, within [`CLAIM_TIME`].
const REFRESH_TIMEOUT: Duration = Duration::from_secs(8);
/// Interval between two reads of a session that another request refreshes.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

impl DashboardSessions {
    /// The session with a token that has not expired: refreshed here, or by another request meanwhile. `None` if the
    /// issuer refuses, or gave no refresh token.
    pub(super) async fn refreshed(
        self: &Arc<Self>,
        session: DashboardSession,
        context: CallContext<'_>,
    ) -> Result<Option<DashboardSession>> {
        // Run this in a task of its own: the issuer may replace the refresh token, and a request that is dropped before
        // the write would lose the new one.
        let (this, deadline) = (Arc::clone(self), context.deadline);
        let refreshing = self.runtime.spawn(async move { this.refresh(session, deadline).await });
        match tokio::time::timeout_at(deadline, refreshing).await {
            Ok(joined) => joined.map_err(|error| Error::internal(error.to_string()))?,
            Err(_) => Err(Error::deadline_exceeded()),
        }
    }

    async fn refresh(&self, mut session: DashboardSession, deadline: Instant) -> Result<Option<DashboardSession>> {
        loop {
            let now = self.clock.wall();
            let claim = now.saturating_add(CLAIM_TIME);
            let claimed = self.store.claim_refresh(session.id, now, claim).await?;
            // Read after the claim: another request may have refreshed since the session was read.
            let Some(current) = self.store.find_session(session.id).await? else { return Ok(None) };
            session = current;
            let SessionOwner::Person(person) = session.owner.clone() else { return Ok(None) };
            if now < person.token_expires_at {
                if claimed {
                    self.store.finish_refresh(session.id, RefreshedPerson { person, claim }).await?;
                }
                return Ok(Some(session));
            }
            if claimed {
                return self.refresh_claimed(session, person, claim).await;
            }
            if Instant::now() >= deadline {
                return Err(Error::unavailable("another request is refreshing the session"));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn refresh_claimed(
        &self,
        session: DashboardSession,
        person: Person,
        claim: Micros,
    ) -> Result<Option<DashboardSession>> {
        let sealed = self.master_keys.open(&[b"refresh", &session.id.0], &person.refresh_token);
        let token = sealed.as_ref().and_then(|token| std::str::from_utf8(token).ok());
        let flow = self.flow(&person.issuer, &person.client);
        let Some((token, flow)) = token.zip(flow) else { return Ok(None) };
        let result = flow.refresh(token, Instant::now() + REFRESH_TIMEOUT).await;
        let issuer = &person.issuer;
        let (person, failed) = match result {
            Ok(SignedIn { caller, expires_at, refresh_token }) if caller.actor == session.actor => {
                let refresh_token = self.seal_refresh_token(&session.id, &refresh_token);
                let organizations = caller.organizations;
                (Person { organizations, token_expires_at: expires_at, refresh_token, ..person }, None)
            }
            Ok(_) => {
                tracing::warn!(issuer, "a refreshed token is another person's: the session ends");
                return Ok(None);
            }
            Err(CodeFlowError::Refused(why)) => {
                tracing::info!(issuer, why, "the issuer refused to refresh a session of the dashboard: it ends");
                return Ok(None);
            }
            // Write the old state back, which releases the claim, so that the next request may try.
            Err(CodeFlowError::Unavailable(why)) => (person.clone(), Some(why)),
        };
        let refreshed = RefreshedPerson { person: person.clone(), claim };
        let still_claimed = self.store.finish_refresh(session.id, refreshed).await?;
        match failed {
            Some(why) => Err(Error::unavailable(why)),
            None if !still_claimed => self.store.find_session(session.id).await.map_err(Error::from),
            None => Ok(Some(DashboardSession { owner: SessionOwner::Person(person), ..session })),
        }
    }
}
