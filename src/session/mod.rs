//! Sessions: authenticates people by the tokens of trusted OpenID Connect issuers, with those issuers' public keys.

mod code_flow;
mod jwks;
mod provider;
mod signature;
pub(crate) mod token;

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, time::Instant};

pub use self::{
    code_flow::{CodeFlow, CodeFlowError, SignInResponse, SignInStart, SignedIn},
    provider::KeySetStatus,
};
use self::{provider::Provider, signature::verify, token::Token};
use crate::domain::{
    clock::Clock,
    error::Result,
    oidc::{CliClient, Issuer, malformed},
    session::SessionCaller,
};

/// How often [`Sessions::keep_fresh`] checks the age of each issuer's keys.
const REFRESH_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The issuers whose tokens are sessions.
pub struct Sessions {
    issuers: Vec<Trusted>,
    clock: Arc<dyn Clock>,
}

struct Trusted {
    rules: Arc<Issuer>,
    provider: Arc<Provider>,
    /// How people sign in to the dashboard; `None` if this issuer is not for the dashboard.
    sign_in: Option<CodeFlow>,
}

impl Sessions {
    /// Trusts these issuers. Their keys are fetched on `runtime`, on first use or by [`Self::keep_fresh`].
    ///
    /// # Errors
    ///
    /// The HTTP client cannot be built, for example because no root certificates are installed.
    pub fn new(issuers: &[Issuer], clock: &Arc<dyn Clock>, runtime: &Handle) -> std::result::Result<Self, String> {
        let trusted = issuers.iter().map(|rules| {
            let rules = Arc::new(rules.clone());
            let provider = Provider::new(Arc::clone(&rules), Arc::clone(clock), runtime.clone())?;
            let provider = Arc::new(provider);
            let client = rules.dashboard.clone();
            let sign_in = client.map(|client| CodeFlow::new(&rules, client, &provider, clock));
            Ok(Trusted { rules, provider, sign_in })
        });
        Ok(Self { issuers: trusted.collect::<std::result::Result<_, String>>()?, clock: Arc::clone(clock) })
    }

    /// Trusts no issuer.
    pub fn none(clock: Arc<dyn Clock>) -> Self {
        Self { issuers: Vec::new(), clock }
    }

    /// Whether a credential is formatted like a token. Without a trusted issuer no credential is.
    pub fn has_form(&self, credential: &str) -> bool {
        !self.issuers.is_empty() && Token::has_form(credential)
    }

    /// The first issuer with a client for command lines, that client, and whether the issuer offers the device flow;
    /// `None` while that is not known.
    pub fn cli_sign_in(&self) -> Option<(&str, &CliClient, Option<bool>)> {
        self.issuers.iter().find_map(|trusted| {
            let client = trusted.rules.cli.as_ref()?;
            Some((trusted.rules.issuer.as_str(), client, trusted.provider.device_flow()))
        })
    }

    /// The names of the cookies that may hold a token, without duplicates.
    pub fn cookies(&self) -> impl Iterator<Item = &str> {
        let name = |at: usize| self.issuers[at].rules.cookie.as_deref();
        let first = move |at: &usize| (0..*at).all(|before| name(before) != name(*at));
        (0..self.issuers.len()).filter(first).filter_map(name)
    }

    /// Authenticates the caller by a token. A token from a cookie is accepted only if its issuer is configured with that
    /// cookie's name.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED with reason MALFORMED or EXPIRED; UNAVAILABLE if the issuer's keys cannot be fetched.
    pub async fn caller(&self, token: &str, cookie: Option<&str>, deadline: Instant) -> Result<SessionCaller> {
        let token = Token::parse(token).ok_or_else(malformed)?;
        let read_from = |rules: &Issuer| cookie.is_none() || rules.cookie.as_deref() == cookie;
        let issued = |trusted: &&Trusted| read_from(&trusted.rules) && trusted.rules.matches(&token.claims);
        let Trusted { rules, provider, .. } = self.issuers.iter().find(issued).ok_or_else(malformed)?;
        verify(rules, provider, &token, deadline).await?;
        rules.caller(&token.claims, self.clock.wall())
    }

    /// The issuers at which people sign in to the dashboard, in the order of the configuration.
    pub fn code_flows(&self) -> impl Iterator<Item = &CodeFlow> {
        self.issuers.iter().filter_map(|trusted| trusted.sign_in.as_ref())
    }

    /// Refreshes each issuer's keys before they exceed their maximum age. Never returns.
    pub async fn keep_fresh(&self) {
        if self.issuers.is_empty() {
            return std::future::pending().await;
        }
        loop {
            for trusted in &self.issuers {
                trusted.provider.refresh_if_due();
            }
            tokio::time::sleep(REFRESH_CHECK_INTERVAL).await;
        }
    }

    /// The status of all issuers' keys together; none where no issuer is trusted.
    pub fn key_set_status(&self) -> Option<KeySetStatus> {
        let statuses = self.issuers.iter().map(|trusted| trusted.provider.status());
        statuses.reduce(|a, b| KeySetStatus {
            without: a.without + b.without,
            oldest: a.oldest.max(b.oldest),
            failures: a.failures + b.failures,
        })
    }
}
