//! Sessions: the tokens that trusted OpenID Connect issuers sign, and the keys that they sign them with.

mod jwks;
mod provider;
mod token;

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};

use self::{
    provider::{Missing, Provider},
    token::Token,
};
use crate::domain::{
    clock::{Clock, Micros},
    error::{Error, Result},
    oidc::{Issuer, malformed},
    session::SessionCaller,
};

/// How often issuers' keys are looked after.
const PAUSE: Duration = Duration::from_millis(500);

/// The issuers whose tokens are sessions.
pub struct Sessions {
    issuers: Vec<Trusted>,
    clock: Arc<dyn Clock>,
}

struct Trusted {
    rules: Arc<Issuer>,
    provider: Arc<Provider>,
}

/// How issuers' keys are, for gauges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeysLevel {
    /// Issuers whose keys could never be fetched yet.
    pub without: usize,
    /// Age of the oldest keys in use, in microseconds.
    pub oldest: Micros,
    /// Fetches that failed.
    pub failures: u64,
}

impl Sessions {
    /// Trusts these issuers. Their keys are fetched on `runtime` once they are needed, or by [`Self::keep_fresh`].
    ///
    /// # Errors
    ///
    /// No HTTP client can be made, as where no root certificates are installed.
    pub fn new(issuers: &[Issuer], clock: &Arc<dyn Clock>, runtime: &Handle) -> std::result::Result<Self, String> {
        let trusted = issuers.iter().map(|rules| {
            let rules = Arc::new(rules.clone());
            let provider = Provider::new(Arc::clone(&rules), Arc::clone(clock), runtime.clone())?;
            Ok(Trusted { rules, provider: Arc::new(provider) })
        });
        Ok(Self { issuers: trusted.collect::<std::result::Result<_, String>>()?, clock: Arc::clone(clock) })
    }

    /// Trusts nobody.
    pub fn none(clock: Arc<dyn Clock>) -> Self {
        Self { issuers: Vec::new(), clock }
    }

    /// Whether a credential has the form of a token; never where no issuer is trusted.
    pub fn has_form(&self, credential: &str) -> bool {
        !self.issuers.is_empty() && Token::has_form(credential)
    }

    /// Names of the cookies that may hold a token, each once.
    pub fn cookies(&self) -> impl Iterator<Item = &str> {
        let name = |at: usize| self.issuers[at].rules.cookie.as_deref();
        let first = move |at: &usize| (0..*at).all(|before| name(before) != name(*at));
        (0..self.issuers.len()).filter(first).filter_map(name)
    }

    /// The caller that a token stands for. One that came in a cookie counts only if its issuer names that cookie.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED, reason MALFORMED or EXPIRED; UNAVAILABLE if its issuer's keys cannot be had.
    pub async fn caller(&self, token: &str, cookie: Option<&str>, deadline: Instant) -> Result<SessionCaller> {
        let token = Token::parse(token).ok_or_else(malformed)?;
        let read_from = |rules: &Issuer| cookie.is_none() || rules.cookie.as_deref() == cookie;
        let meant = |trusted: &&Trusted| read_from(&trusted.rules) && trusted.rules.matches(&token.claims);
        let Trusted { rules, provider } = self.issuers.iter().find(meant).ok_or_else(malformed)?;
        if !rules.algorithms.contains(&token.algorithm) {
            return Err(malformed());
        }
        let key = timeout_at(deadline, provider.key(token.key_id.as_deref(), token.algorithm)).await;
        let key = key.unwrap_or(Err(Missing::Unreachable)).map_err(|missing| match missing {
            Missing::Unknown => malformed(),
            Missing::Unreachable => Error::unavailable(format!("no keys of {}", rules.issuer)),
        })?;
        if !key.signed(&token) {
            return Err(malformed());
        }
        rules.caller(&token.claims, self.clock.wall())
    }

    /// Fetches keys before they get too old, again and again.
    pub async fn keep_fresh(&self) {
        if self.issuers.is_empty() {
            return std::future::pending().await;
        }
        loop {
            for trusted in &self.issuers {
                trusted.provider.fetch_ahead();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// How the keys are; none where no issuer is trusted.
    pub fn level(&self) -> Option<KeysLevel> {
        let levels = self.issuers.iter().map(|trusted| trusted.provider.level());
        levels.reduce(|a, b| KeysLevel {
            without: a.without + b.without,
            oldest: a.oldest.max(b.oldest),
            failures: a.failures + b.failures,
        })
    }
}
