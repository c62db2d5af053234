//! Sessions: authenticates people by the tokens of trusted OpenID Connect issuers, with those issuers' public keys.

mod jwks;
mod provider;
pub(crate) mod token;

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};

pub use self::provider::KeySetStatus;
use self::{
    provider::{KeyError, Provider},
    token::Token,
};
use crate::domain::{
    clock::Clock,
    error::{Error, Result},
    oidc::{Issuer, malformed},
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
            Ok(Trusted { rules, provider: Arc::new(provider) })
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
        let Trusted { rules, provider } = self.issuers.iter().find(issued).ok_or_else(malformed)?;
        if !rules.algorithms.contains(&token.algorithm) {
            return Err(malformed());
        }
        let verified = timeout_at(deadline, provider.verify(&token)).await;
        verified.unwrap_or(Err(KeyError::Unreachable)).map_err(|error| match error {
            KeyError::Unverified => malformed(),
            KeyError::Unreachable => Error::unavailable(format!("no keys of {}", rules.issuer)),
        })?;
        rules.caller(&token.claims, self.clock.wall())
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
