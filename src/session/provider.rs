//! An issuer's keys: found by discovery, kept, and fetched anew before they get old. Whoever sends tokens cannot make
//! this ask the issuer often, and an issuer that is away takes nothing away that was good.

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

use super::{
    KeysLevel,
    jwks::{KeySet, VerifyingKey},
};
use crate::domain::{
    clock::{Clock, Micros, SECOND},
    oidc::{Algorithm, Issuer},
};

/// Bytes of a document, at most.
const DOCUMENT_BYTES: usize = 256 << 10;
/// How long a connection, and a document as a whole, may take.
const CONNECTING: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(4);
/// Between two fetches for ids that are not known: a stranger can name any.
const UNKNOWN: Micros = 30 * SECOND;
/// Between two fetches of which the first failed: the first pause, doubled each time, and the last.
const FIRST_PAUSE: Micros = SECOND;
const LAST_PAUSE: Micros = 30 * SECOND;

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The issuer has no such key.
    Unknown,
    /// The issuer cannot be asked, and nothing that is kept answers it.
    Unreachable,
}

/// Why keys are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// There are none, or they get old.
    Age,
    /// None has the id that was asked for.
    UnknownId,
}

/// Ends when the fetch has, which runs in a task of its own.
type Fetch = Shared<BoxFuture<'static, ()>>;

/// One issuer's keys.
pub struct Provider {
    rules: Arc<Issuer>,
    http: Client,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    /// The last good ones; none until there were any.
    kept: ArcSwapOption<Kept>,
    gate: Mutex<Gate>,
}

struct Kept {
    keys: KeySet,
    at: Micros,
}

/// When the issuer may be asked. Times are of the clock that never steps.
#[derive(Default)]
struct Gate {
    fetch: Option<(AbortHandle, Fetch)>,
    /// Failures in a row, and in all.
    failing: u32,
    failures: u64,
    not_before: Micros,
    unknown_not_before: Micros,
}

impl Provider {
    /// Nothing is fetched yet.
    ///
    /// # Errors
    ///
    /// No HTTP client can be made.
    pub fn new(rules: Arc<Issuer>, clock: Arc<dyn Clock>, runtime: Handle) -> Result<Self, String> {
        // A redirect could lead to where the settings would not let it go.
        let http = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECTING)
            .timeout(PATIENCE)
            .user_agent(concat!("keyward/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| chain(&error))?;
        Ok(Self { rules, http, clock, runtime, kept: ArcSwapOption::empty(), gate: Mutex::default() })
    }

    /// The key that a token names. Fetches, and waits for it, where there is nothing good to answer from.
    pub async fn key(self: &Arc<Self>, id: Option<&str>, algorithm: Algorithm) -> Result<Arc<VerifyingKey>, Missing> {
        let why = match &*self.kept.load() {
            None => Some(Why::Age),
            Some(kept) => match kept.keys.find(id, algorithm) {
                None => Some(Why::UnknownId),
                // While the issuer is away nobody waits for it who can do without.
                Some(key) if self.age(kept) < self.life() || self.gate.lock().failing > 0 => {
                    return Ok(Arc::clone(key));
                }
                Some(_) => Some(Why::Age),
            },
        };
        if let Some(fetch) = why.and_then(|why| self.fetch(why)) {
            fetch.await;
        }
        let kept = self.kept.load();
        match kept.as_ref().and_then(|kept| kept.keys.find(id, algorithm)) {
            Some(key) => Ok(Arc::clone(key)),
            // A key that is not known may be a new one, for all that can be told.
            None if kept.is_none() || self.gate.lock().failing > 0 => Err(Missing::Unreachable),
            None => Err(Missing::Unknown),
        }
    }

    /// Starts a fetch where keys will soon be too old.
    pub fn fetch_ahead(self: &Arc<Self>) {
        let soon = self.kept.load().as_ref().is_none_or(|kept| self.age(kept) >= self.life() / 4 * 3);
        if soon {
            self.fetch(Why::Age);
        }
    }

    /// How the keys are.
    pub fn level(&self) -> KeysLevel {
        let kept = self.kept.load();
        KeysLevel {
            without: usize::from(kept.is_none()),
            oldest: kept.as_ref().map_or(0, |kept| self.age(kept)),
            failures: self.gate.lock().failures,
        }
    }

    fn age(&self, kept: &Kept) -> Micros {
        self.clock.boottime() - kept.at
    }

    fn life(&self) -> Micros {
        Micros::try_from(self.rules.refresh.as_micros()).unwrap_or(Micros::MAX)
    }

    /// The fetch under way, or a new one if one is due; it runs to its end, whoever waits for it.
    fn fetch(self: &Arc<Self>, why: Why) -> Option<Fetch> {
        let now = self.clock.boottime();
        let mut gate = self.gate.lock();
        if let Some((_, fetch)) = gate.fetch.as_ref().filter(|(task, _)| !task.is_finished()) {
            return Some(fetch.clone());
        }
        if now < gate.not_before || (why == Why::UnknownId && now < gate.unknown_not_before) {
            return None;
        }
        if why == Why::UnknownId {
            gate.unknown_not_before = now + UNKNOWN;
        }
        let provider = Arc::clone(self);
        let task = self.runtime.spawn(async move { provider.fetch_and_keep().await });
        let running = task.abort_handle();
        let fetch = task.map(drop).boxed().shared();
        gate.fetch = Some((running, fetch.clone()));
        Some(fetch)
    }

    async fn fetch_and_keep(&self) {
        let fetched = self.fetch_keys().await;
        let now = self.clock.boottime();
        match fetched {
            Ok(keys) => {
                self.kept.store(Some(Arc::new(Kept { keys, at: now })));
                let mut gate = self.gate.lock();
                gate.failing = 0;
                gate.not_before = 0;
            }
            Err(why) => {
                let issuer = &self.rules.issuer;
                tracing::warn!(issuer, why, "the issuer's keys could not be fetched; what there was is kept");
                let mut gate = self.gate.lock();
                let pause = FIRST_PAUSE << gate.failing.min(8);
                gate.failing = gate.failing.saturating_add(1);
                gate.failures += 1;
                gate.not_before = now + pause.min(LAST_PAUSE);
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
            if document.len() > DOCUMENT_BYTES {
                return Err(format!("{url}: more than {DOCUMENT_BYTES} bytes"));
            }
        }
        Ok(document)
    }
}

/// An error with what caused it: the outermost words alone tell little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
