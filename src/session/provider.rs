//! An issuer's public keys: found by discovery, cached, and refreshed before they exceed their maximum age.
//!
//! Fetches are rate-limited, so that tokens of strangers cannot cause many. While the issuer is unreachable, the cached
//! keys stay valid.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use reqwest::{Client, redirect};
use serde::Deserialize;
use tokio::{runtime::Handle, task::AbortHandle};
use url::Url;

use super::jwks::{KeySet, VerifyingKey};
use crate::domain::{
    clock::{Clock, Micros, SECOND},
    oidc::{Algorithm, Issuer},
};

/// Maximum size of a document.
const MAX_DOCUMENT_BYTES: usize = 256 << 10;
/// Timeout of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of a document as a whole.
const FETCH_TIMEOUT: Duration = Duration::from_secs(4);
/// Minimum time between two fetches for unknown key ids: anybody can send a token with a made-up id.
const UNKNOWN_ID_INTERVAL: Micros = 30 * SECOND;
/// Delay after the first failed fetch; doubled with each further one.
const MIN_RETRY_DELAY: Micros = SECOND;
/// Longest delay after a failed fetch.
const MAX_RETRY_DELAY: Micros = 30 * SECOND;

/// Why no key can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// The issuer has no such key.
    Unknown,
    /// The issuer is unreachable, and no cached key fits.
    Unreachable,
}

/// The reason for a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FetchReason {
    /// There are no keys yet, or they are near their maximum age.
    Age,
    /// No cached key has the token's key id.
    UnknownId,
}

/// Completes with the fetch, which runs in its own task.
type Fetch = Shared<BoxFuture<'static, ()>>;

/// One issuer's keys.
pub struct Provider {
    rules: Arc<Issuer>,
    http: Client,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    /// The keys of the last successful fetch.
    cached: ArcSwapOption<CachedKeys>,
    gate: Mutex<Gate>,
}

struct CachedKeys {
    keys: KeySet,
    fetched_at: Micros,
}

/// The status of issuers' keys, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeySetStatus {
    /// Issuers whose keys have never been fetched.
    pub without: usize,
    /// Age of the oldest keys in use, in microseconds.
    pub oldest: Micros,
    /// Failed fetches.
    pub failures: u64,
}

/// Limits how often keys are fetched. Times are `Clock::boottime`, which is never set back.
#[derive(Default)]
struct Gate {
    fetch: Option<(AbortHandle, Fetch)>,
    failures_in_a_row: u32,
    failures: u64,
    not_before: Micros,
    unknown_not_before: Micros,
}

impl Provider {
    /// Creates the provider. It fetches nothing yet.
    ///
    /// # Errors
    ///
    /// The HTTP client cannot be built.
    pub fn new(rules: Arc<Issuer>, clock: Arc<dyn Clock>, runtime: Handle) -> Result<Self, String> {
        // No redirects: one could lead to a URL that `Issuer::may_fetch` refuses.
        let http = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(FETCH_TIMEOUT)
            .user_agent(concat!("keyward/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| chain(&error))?;
        Ok(Self { rules, http, clock, runtime, cached: ArcSwapOption::empty(), gate: Mutex::default() })
    }

    /// The key that a token names. Fetches the keys, and waits for that, if no cached key fits.
    pub async fn key(self: &Arc<Self>, id: Option<&str>, algorithm: Algorithm) -> Result<Arc<VerifyingKey>, KeyError> {
        let reason = match &*self.cached.load() {
            None => Some(FetchReason::Age),
            Some(cached) => match cached.keys.find(id, algorithm) {
                None => Some(FetchReason::UnknownId),
                // While the issuer is unreachable, a cached key is used beyond its maximum age, without waiting.
                Some(key) if self.age(cached) < self.max_age() || self.gate.lock().failures_in_a_row > 0 => {
                    return Ok(Arc::clone(key));
                }
                Some(_) => Some(FetchReason::Age),
            },
        };
        if let Some(fetch) = reason.and_then(|reason| self.fetch(reason)) {
            fetch.await;
        }
        let cached = self.cached.load();
        match cached.as_ref().and_then(|cached| cached.keys.find(id, algorithm)) {
            Some(key) => Ok(Arc::clone(key)),
            // The token may name a new key that could not be fetched.
            None if cached.is_none() || self.gate.lock().failures_in_a_row > 0 => Err(KeyError::Unreachable),
            None => Err(KeyError::Unknown),
        }
    }

    /// Starts a fetch once the keys have reached three quarters of their maximum age.
    pub fn refresh_if_due(self: &Arc<Self>) {
        let due = self.cached.load().as_ref().is_none_or(|cached| self.age(cached) >= self.max_age() / 4 * 3);
        if due {
            self.fetch(FetchReason::Age);
        }
    }

    /// The status of this issuer's keys.
    pub fn status(&self) -> KeySetStatus {
        let cached = self.cached.load();
        KeySetStatus {
            without: usize::from(cached.is_none()),
            oldest: cached.as_ref().map_or(0, |cached| self.age(cached)),
            failures: self.gate.lock().failures,
        }
    }

    fn age(&self, cached: &CachedKeys) -> Micros {
        self.clock.boottime() - cached.fetched_at
    }

    fn max_age(&self) -> Micros {
        Micros::try_from(self.rules.refresh.as_micros()).unwrap_or(Micros::MAX)
    }

    /// The fetch in progress, or a new one if the limits allow it. A fetch runs to its end even if every waiter is
    /// cancelled.
    fn fetch(self: &Arc<Self>, reason: FetchReason) -> Option<Fetch> {
        let now = self.clock.boottime();
        let mut gate = self.gate.lock();
        if let Some((_, fetch)) = gate.fetch.as_ref().filter(|(task, _)| !task.is_finished()) {
            return Some(fetch.clone());
        }
        if now < gate.not_before || (reason == FetchReason::UnknownId && now < gate.unknown_not_before) {
            return None;
        }
        if reason == FetchReason::UnknownId {
            gate.unknown_not_before = now + UNKNOWN_ID_INTERVAL;
        }
        let provider = Arc::clone(self);
        let task = self.runtime.spawn(async move { provider.fetch_and_store().await });
        let running = task.abort_handle();
        let fetch = task.map(drop).boxed().shared();
        gate.fetch = Some((running, fetch.clone()));
        Some(fetch)
    }

    async fn fetch_and_store(&self) {
        let fetched = self.fetch_keys().await;
        let now = self.clock.boottime();
        match fetched {
            Ok(keys) => {
                self.cached.store(Some(Arc::new(CachedKeys { keys, fetched_at: now })));
                let mut gate = self.gate.lock();
                gate.failures_in_a_row = 0;
                gate.not_before = 0;
            }
            Err(why) => {
                let issuer = &self.rules.issuer;
                tracing::warn!(issuer, why, "fetching the issuer's keys failed, will retry; cached keys stay valid");
                let mut gate = self.gate.lock();
                let delay = MIN_RETRY_DELAY << gate.failures_in_a_row.min(8);
                gate.failures_in_a_row = gate.failures_in_a_row.saturating_add(1);
                gate.failures += 1;
                gate.not_before = now + delay.min(MAX_RETRY_DELAY);
            }
        }
    }

    async fn fetch_keys(&self) -> Result<KeySet, String> {
        #[derive(Deserialize)]
        struct Discovery {
            issuer: String,
            jwks_uri: String,
        }
        let issuer = &self.rules.issuer;
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let document = self.get(Url::parse(&url).map_err(|error| error.to_string())?).await?;
        let found: Discovery = serde_json::from_slice(&document).map_err(|error| format!("{url}: {error}"))?;
        if found.issuer != *issuer {
            return Err(format!("{url} is another issuer's: {}", found.issuer.escape_debug()));
        }
        let keys = Url::parse(&found.jwks_uri).map_err(|error| format!("{url}: jwks_uri: {error}"))?;
        KeySet::parse(&self.get(keys).await?)
    }

    async fn get(&self, url: Url) -> Result<Vec<u8>, String> {
        if !self.rules.may_fetch(&url) {
            return Err(format!("{url} is not https"));
        }
        let mut response = self.http.get(url.clone()).send().await.map_err(|error| chain(&error))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(format!("{url}: {}", response.status()));
        }
        let mut document = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| chain(&error))? {
            document.extend_from_slice(&chunk);
            if document.len() > MAX_DOCUMENT_BYTES {
                return Err(format!("{url}: more than {MAX_DOCUMENT_BYTES} bytes"));
            }
        }
        Ok(document)
    }
}

/// An error and its causes. The outermost message alone says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
