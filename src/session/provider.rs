//! An issuer's public keys: found by discovery, cached, and refreshed before they exceed their maximum age.
//!
//! Fetches are rate-limited, so that unauthenticated tokens cannot cause many. While the issuer is unreachable, the
//! cached keys stay valid.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use reqwest::{Client, redirect};
use serde::Deserialize;
use serde_json::Value;
use tokio::{runtime::Handle, task::AbortHandle};
use url::Url;

use super::{
    jwks::{KeySet, Signature},
    token::Token,
};
use crate::domain::{
    clock::{Clock, Micros, SECOND},
    oidc::Issuer,
};

/// Maximum size of a document.
const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// Timeout of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of a document as a whole.
const FETCH_TIMEOUT: Duration = Duration::from_secs(4);
/// Minimum time between two fetches for tokens that no cached key verifies: anybody can send one.
const UNVERIFIED_INTERVAL: Micros = 30 * SECOND;
/// Delay after the first failed fetch; doubled with each further one.
const MIN_RETRY_DELAY: Micros = SECOND;
/// Longest delay after a failed fetch.
const MAX_RETRY_DELAY: Micros = 30 * SECOND;

/// Why a token is not verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// No key of the issuer signed it.
    Unverified,
    /// The issuer is unreachable, and no cached key fits.
    Unreachable,
}

/// The reason for a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FetchReason {
    /// There are no keys yet, or they are near their maximum age.
    Age,
    /// No cached key signed the token: it may be signed with a new key, or the issuer now uses its key id for another
    /// key.
    Unverified,
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
    /// The endpoints that the last successful discovery named.
    endpoints: ArcSwapOption<Endpoints>,
    gate: Mutex<Gate>,
}

struct CachedKeys {
    keys: KeySet,
    device_flow: bool,
    fetched_at: Micros,
}

/// Where people sign in, and where codes become tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// Where a browser is sent.
    pub authorization: Url,
    /// Where codes and refresh tokens are exchanged.
    pub token: Url,
    /// Whether the client's secret is sent in the form; if not, in the `Authorization` header.
    pub secret_in_form: bool,
    /// Whether each response names the issuer (RFC 9207).
    pub names_issuer: bool,
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
    unverified_not_before: Micros,
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
        Ok(Self {
            rules,
            http,
            clock,
            runtime,
            cached: ArcSwapOption::empty(),
            endpoints: ArcSwapOption::empty(),
            gate: Mutex::default(),
        })
    }

    /// Verifies a token's signature. Fetches the keys, and waits for that, if no cached key signed it.
    ///
    /// # Errors
    ///
    /// The token is not verified.
    pub async fn verify(self: &Arc<Self>, token: &Token<'_>) -> Result<(), KeyError> {
        let reason = match &*self.cached.load() {
            None => FetchReason::Age,
            Some(cached) => match cached.keys.check(token) {
                // While the issuer is unreachable, a cached key is used beyond its maximum age, without waiting.
                Signature::Verified if self.age(cached) < self.max_age() || self.gate.lock().failures_in_a_row > 0 => {
                    return Ok(());
                }
                Signature::Verified => FetchReason::Age,
                Signature::Wrong | Signature::NoKey => FetchReason::Unverified,
            },
        };
        if let Some(fetch) = self.fetch(reason) {
            fetch.await;
        }
        let cached = self.cached.load();
        match cached.as_ref().map(|cached| cached.keys.check(token)) {
            Some(Signature::Verified) => Ok(()),
            None => Err(KeyError::Unreachable),
            // The token may name a new key that could not be fetched.
            Some(Signature::NoKey) if self.gate.lock().failures_in_a_row > 0 => Err(KeyError::Unreachable),
            Some(Signature::Wrong | Signature::NoKey) => Err(KeyError::Unverified),
        }
    }

    /// The endpoints. Waits for the first discovery; `None` if the issuer is unreachable, or has no such endpoints.
    pub async fn endpoints(self: &Arc<Self>) -> Option<Arc<Endpoints>> {
        if self.endpoints.load().is_none()
            && let Some(fetch) = self.fetch(FetchReason::Age)
        {
            fetch.await;
        }
        self.endpoints.load_full()
    }

    /// Sends a form to the issuer, and reads the JSON of the response whatever its status is.
    ///
    /// # Errors
    ///
    /// The reason, for the log: the issuer is unreachable, or its response is no JSON.
    pub async fn post_form(&self, url: &Url, form: String, secret: Option<(&str, &str)>) -> Result<Value, String> {
        if !self.rules.may_fetch(url) {
            return Err(format!("{url} is not https"));
        }
        let mut request = self.http.post(url.clone()).header("content-type", "application/x-www-form-urlencoded");
        request = request.header("accept", "application/json").body(form);
        if let Some((id, secret)) = secret {
            request = request.basic_auth(id, Some(secret));
        }
        let response = request.send().await.map_err(|error| chain(&error))?;
        serde_json::from_slice(&read(url, response).await?).map_err(|_| format!("{url}: the response is no JSON"))
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

    /// Whether the issuer offers the device flow (RFC 8628); `None` while nothing was fetched.
    pub fn device_flow(&self) -> Option<bool> {
        self.cached.load().as_ref().map(|cached| cached.device_flow)
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
        if now < gate.not_before || (reason == FetchReason::Unverified && now < gate.unverified_not_before) {
            return None;
        }
        if reason == FetchReason::Unverified {
            gate.unverified_not_before = now + UNVERIFIED_INTERVAL;
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
            Ok((keys, device_flow)) => {
                self.log_skipped(&keys);
                self.cached.store(Some(Arc::new(CachedKeys { keys, device_flow, fetched_at: now })));
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

    /// Logs the keys that are not used, once for each change.
    fn log_skipped(&self, keys: &KeySet) {
        let cached = self.cached.load();
        let known = cached.as_ref().map_or("", |cached| &cached.keys.skipped);
        if !keys.skipped.is_empty() && keys.skipped != known {
            tracing::warn!(issuer = self.rules.issuer, skipped = keys.skipped, "keys of the issuer are not used");
        }
    }

    /// The keys, and whether the issuer offers the device flow.
    async fn fetch_keys(&self) -> Result<(KeySet, bool), String> {
        #[derive(Deserialize)]
        struct Discovery {
            issuer: String,
            jwks_uri: String,
            authorization_endpoint: Option<String>,
            token_endpoint: Option<String>,
            #[serde(default)]
            token_endpoint_auth_methods_supported: Vec<String>,
            #[serde(default)]
            authorization_response_iss_parameter_supported: bool,
            #[serde(default)]
            device_authorization_endpoint: Option<String>,
        }
        let issuer = &self.rules.issuer;
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let document = self.get(Url::parse(&url).map_err(|error| error.to_string())?).await?;
        let found: Discovery = serde_json::from_slice(&document).map_err(|error| format!("{url}: {error}"))?;
        if found.issuer != *issuer {
            return Err(format!("{url} is another issuer's: {}", found.issuer.escape_debug()));
        }
        let endpoint = |text: Option<String>| text.and_then(|text| Url::parse(&text).ok());
        if let (Some(authorization), Some(token)) =
            (endpoint(found.authorization_endpoint), endpoint(found.token_endpoint))
        {
            let methods = &found.token_endpoint_auth_methods_supported;
            self.endpoints.store(Some(Arc::new(Endpoints {
                authorization,
                token,
                secret_in_form: methods.iter().any(|method| method == "client_secret_post"),
                names_issuer: found.authorization_response_iss_parameter_supported,
            })));
        }
        let keys = Url::parse(&found.jwks_uri).map_err(|error| format!("{url}: jwks_uri: {error}"))?;
        if self.rules.may_fetch(&keys) && !self.rules.may_have_keys_at(&keys) {
            let host = keys.host_str().unwrap_or_default().escape_debug();
            return Err(format!("{url}: jwks_uri is on {host}, which is neither the issuer's host nor in jwks_hosts"));
        }
        Ok((KeySet::parse(&self.get(keys).await?)?, found.device_authorization_endpoint.is_some()))
    }

    async fn get(&self, url: Url) -> Result<Vec<u8>, String> {
        if !self.rules.may_fetch(&url) {
            return Err(format!("{url} is not https"));
        }
        let response = self.http.get(url.clone()).send().await.map_err(|error| chain(&error))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(format!("{url}: {}", response.status()));
        }
        read(&url, response).await
    }
}

async fn read(url: &Url, mut response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut document = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| chain(&error))? {
        document.extend_from_slice(&chunk);
        if document.len() > MAX_DOCUMENT_BYTES {
            return Err(format!("{url}: more than {MAX_DOCUMENT_BYTES} bytes"));
        }
    }
    // Some editors and servers put a byte order mark before the text.
    if document.starts_with(b"\xef\xbb\xbf") {
        document.drain(..3);
    }
    Ok(document)
}

/// An error and its causes. The outermost message alone is rarely enough.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
