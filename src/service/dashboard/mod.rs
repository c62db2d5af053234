//! Sessions of the dashboard: signing in and out, and the caller of a session's cookie.

mod refresh;
pub(crate) mod sign_in;

use std::sync::Arc;

use tokio::runtime::Handle;
use zeroize::Zeroizing;

use super::{
    authenticate::{AuthMode, Authenticated, Authenticator},
    context::CallContext,
    trail::AuditTrail,
};
use crate::{
    domain::{
        access,
        caller::Caller,
        clock::{Clock, Entropy},
        dashboard::{
            DashboardSession, Person, SessionId, SessionLifetimes, SessionOwner, SessionSecret, TOUCH_INTERVAL,
            form_token, is_form_token,
        },
        error::{ErrorKind, Result},
        master_keys::MasterKeys,
    },
    session::{CodeFlow, Sessions},
    store::Store,
};

/// Sessions of one person that are listed.
const MAX_LISTED: u32 = 50;

/// Sessions of the dashboard.
pub struct DashboardSessions {
    pub(super) store: Arc<dyn Store>,
    pub(super) auth: Arc<Authenticator>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) trail: Arc<AuditTrail>,
    pub(super) master_keys: Arc<MasterKeys>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) lifetimes: SessionLifetimes,
    /// Runs tasks that must complete even if their request is dropped.
    pub(super) runtime: Handle,
}

/// A session that was just created.
pub struct NewSession {
    /// The session.
    pub session: DashboardSession,
    /// The cookie's value.
    pub cookie: Zeroizing<String>,
}

/// A live session and its caller, evaluated now.
#[derive(Debug, Clone)]
pub struct OpenSession {
    /// The session.
    pub session: DashboardSession,
    /// The caller.
    pub caller: Caller,
}

/// An issuer at which people sign in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignInIssuer<'a> {
    /// Its identifier.
    pub issuer: &'a str,
    /// The client's id there.
    pub client: &'a str,
}

impl DashboardSessions {
    /// Signs in the holder of a credential: an operator's, or an admin key.
    ///
    /// # Errors
    ///
    /// Those of [`Authenticator::authenticate`]; PERMISSION_DENIED for a caller that may not manage keys.
    pub async fn sign_in(&self, credential: &str, context: CallContext<'_>) -> Result<NewSession> {
        let Authenticated { caller, .. } = self.auth.authenticate(credential, AuthMode::SpendLimit, context).await?;
        access::may_manage(&caller).inspect_err(|error| self.trail.record_denial(&caller, "sign_in", error))?;
        let owner = SessionOwner::Credential(crate::domain::secret::digest(credential));
        let new = self.begin(caller.actor(), owner, context).await?;
        self.trail.record_sign_in(&caller, "credential", context.client);
        Ok(new)
    }

    /// Writes a new session. Its id is new, whatever session the browser had before.
    async fn begin(&self, actor: String, owner: SessionOwner, context: CallContext<'_>) -> Result<NewSession> {
        let secret = SessionSecret::new(&*self.entropy);
        self.begin_as(secret, actor, owner, context).await
    }

    async fn begin_as(
        &self,
        secret: SessionSecret,
        actor: String,
        owner: SessionOwner,
        context: CallContext<'_>,
    ) -> Result<NewSession> {
        let now = self.clock.wall();
        let ends_at = now.saturating_add(self.lifetimes.absolute);
        let session = DashboardSession {
            id: secret.row(),
            actor,
            owner,
            created_at: now,
            last_seen_at: now,
            idle_at: self.lifetimes.idle_at(now, ends_at),
            ends_at,
        };
        context.bounded(self.store.create_session(session.clone())).await?;
        Ok(NewSession { session, cookie: secret.cookie(&self.master_keys) })
    }

    /// The session of a cookie, with the caller as of now: a key's verdict is evaluated again, and a person's token is
    /// refreshed when it has expired. `None` if there is no such session, or it has ended.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED for a key whose rate limit is spent; UNAVAILABLE; DEADLINE_EXCEEDED.
    pub async fn open(self: &Arc<Self>, cookie: &str, context: CallContext<'_>) -> Result<Option<OpenSession>> {
        let Some(secret) = SessionSecret::of_cookie(cookie, &self.master_keys) else { return Ok(None) };
        let now = self.clock.wall();
        let found = context.bounded(self.store.find_session(secret.row())).await?;
        let Some(session) = found.filter(|session| session.is_live(now)) else { return Ok(None) };
        let open = match &session.owner {
            SessionOwner::Credential(digest) => {
                match self.auth.authenticate_digest(*digest, AuthMode::SpendLimit, context).await {
                    Ok(Authenticated { caller, .. }) => Some(OpenSession { session: session.clone(), caller }),
                    Err(error) if error.kind == ErrorKind::Unauthenticated => None,
                    Err(error) => return Err(error),
                }
            }
            SessionOwner::Person(person) => self.open_person(&session, person, context).await?,
        };
        let Some(open) = open else {
            context.bounded(self.store.end_session(session.id, session.actor)).await?;
            return Ok(None);
        };
        if now >= open.session.last_seen_at.saturating_add(TOUCH_INTERVAL) {
            let idle_at = self.lifetimes.idle_at(now, open.session.ends_at);
            context.bounded(self.store.touch_session(open.session.id, now, idle_at)).await?;
        }
        Ok(Some(open))
    }

    async fn open_person(
        self: &Arc<Self>,
        session: &DashboardSession,
        person: &Person,
        context: CallContext<'_>,
    ) -> Result<Option<OpenSession>> {
        // The issuer is no longer configured, so its sessions are invalid.
        let Some(flow) = self.flow(&person.issuer, &person.client) else { return Ok(None) };
        let current = if self.clock.wall() < person.token_expires_at {
            session.clone()
        } else {
            match self.refreshed(session.clone(), context).await? {
                Some(refreshed) => refreshed,
                None => return Ok(None),
            }
        };
        let SessionOwner::Person(person) = &current.owner else { return Ok(None) };
        let caller = flow.caller(current.actor.clone(), person.organizations.clone());
        Ok(Some(OpenSession { caller: Caller::Session(Arc::new(caller)), session: current }))
    }

    fn flow(&self, issuer: &str, client: &str) -> Option<&CodeFlow> {
        self.sessions.code_flows().find(|flow| flow.issuer() == issuer && flow.client_id() == client)
    }

    /// The issuers at which people sign in.
    pub fn issuers(&self) -> impl Iterator<Item = SignInIssuer<'_>> {
        self.sessions.code_flows().map(|flow| SignInIssuer { issuer: flow.issuer(), client: flow.client_id() })
    }

    /// Ends a session. Returns the URL that ends the issuer's own session, if that is configured; `return_to` is the
    /// sign-in page.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE; DEADLINE_EXCEEDED.
    pub async fn sign_out(
        &self,
        open: &OpenSession,
        return_to: &str,
        context: CallContext<'_>,
    ) -> Result<Option<String>> {
        let OpenSession { session, caller } = open;
        if context.bounded(self.store.end_session(session.id, session.actor.clone())).await? {
            self.trail.record_sign_out(caller);
        }
        let SessionOwner::Person(person) = &session.owner else { return Ok(None) };
        let flow = self.flow(&person.issuer, &person.client);
        Ok(flow.and_then(|flow| flow.logout(return_to)).map(String::from))
    }

    /// The live sessions of this session's owner, newest first; at most 50.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE; DEADLINE_EXCEEDED.
    pub async fn own(&self, session: &DashboardSession, context: CallContext<'_>) -> Result<Vec<DashboardSession>> {
        context.bounded(self.store.sessions_of(session.actor.clone(), self.clock.wall(), MAX_LISTED)).await
    }

    /// Ends another session of this session's owner. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE; DEADLINE_EXCEEDED.
    pub async fn end_other(&self, open: &OpenSession, other: SessionId, context: CallContext<'_>) -> Result<bool> {
        let ended = context.bounded(self.store.end_session(other, open.session.actor.clone())).await?;
        if ended {
            self.trail.record_sign_out(&open.caller);
        }
        Ok(ended)
    }

    /// Records that a form whose response shows a secret was used. Returns whether this is the first use: a browser
    /// that reloads such a response sends the form again.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE; DEADLINE_EXCEEDED.
    pub async fn spend_form(&self, session: &DashboardSession, form: &str, context: CallContext<'_>) -> Result<bool> {
        let well_formed =
            form.len() == 16 && form.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        Ok(well_formed && context.bounded(self.store.spend_form(session.id, form.to_owned())).await?)
    }

    /// The name of a form that may be used once.
    pub fn new_form(&self) -> String {
        let mut random = [0; 10];
        self.entropy.fill(&mut random);
        data_encoding::BASE32_NOPAD.encode(&random).to_ascii_lowercase()
    }

    /// The token that each form of a session carries.
    pub fn form_token(&self, session: &DashboardSession) -> String {
        session.id.form_token(&self.master_keys)
    }

    /// Whether a form carries the token of this session.
    pub fn has_form_token(&self, session: &DashboardSession, token: &str) -> bool {
        session.id.has_form_token(token, &self.master_keys)
    }

    /// The token of the sign-in form, for the value of its cookie.
    pub fn sign_in_token(&self, cookie: &str) -> String {
        form_token(&self.master_keys, cookie.as_bytes())
    }

    /// Whether the sign-in form carries the token of its cookie.
    pub fn has_sign_in_token(&self, cookie: &str, token: &str) -> bool {
        !cookie.is_empty() && is_form_token(&self.master_keys, cookie.as_bytes(), token)
    }
}
