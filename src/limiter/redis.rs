//! Limits shared by many replicas, in Redis or Valkey: one script, one round trip, on the server's clock.
//!
//! A server that answers slowly and a server that is unavailable are distinguished:
//!
//! - Slow: the server answers other calls, but not this one within `rate_limit.timeout`. It may have counted the call, so
//!   the call is not counted again here: `rate_limit.on_timeout` decides whether it is refused or admitted. What the
//!   server then counted for a refused call is released as soon as its answer arrives.
//! - Unavailable: the connection fails, or nothing has been answered for [`OUTAGE_AFTER`]. The circuit breaker opens: the
//!   connection is dropped, this replica limits by itself, and a background task reconnects.
//!
//! With permit leases, a call takes permits ahead of need, and most calls need no round trip.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use redis::{AsyncConnectionConfig, Client, RedisError, Script, aio::MultiplexedConnection};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    permit_leases::{PermitLeases, SpendStart},
    redis_call::{LastAnswer, PendingCall, ScriptCall, ScriptClient, ScriptReply},
    subject::Subject,
};
use crate::domain::{
    rate_limit::{OnTimeout, RateLimit, SpendResult},
    server_url,
};

/// Number of error replies in a row after which the circuit breaker opens. A lost connection opens it at once.
const MAX_ERRORS: u32 = 5;
/// The server is considered unavailable once a call waits and nothing was answered for this long, and at least for
/// twice the timeout of a call. A shorter stall delays the calls in flight; it must not open the circuit breaker, since
/// a replica that limits by itself admits a whole limit of its own.
const OUTAGE_AFTER: Duration = Duration::from_millis(250);
/// Delay between two attempts to connect.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// Timeout of one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait for a late answer, so that the permits that it took can be released.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of calls queued on the connection, for all callers together. The library's default is 50.
const PIPELINE_BUFFER: usize = 4_096;

/// How calls to the shared store are bounded.
#[derive(Debug, Clone, Copy)]
pub struct SharedOptions {
    /// How long a call waits for its answer while the store answers other calls; at most a second.
    pub timeout: Duration,
    /// What happens to a call that waited for longer.
    pub on_timeout: OnTimeout,
}

/// The outcome of a call to the shared store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedSpend {
    /// The store has counted the call, or refused it.
    Counted(SpendResult),
    /// The store is available and has not answered in time. It may count the call later.
    TimedOut {
        /// Whether the call is admitted all the same.
        admitted: bool,
        /// When a retry may succeed.
        retry_after: Duration,
    },
    /// The store is unavailable.
    Unavailable,
}

/// The connection to the shared store, and whether it works.
pub struct SharedLimiter {
    client: Client,
    /// `None` while the server is unavailable.
    connection: ArcSwapOption<MultiplexedConnection>,
    /// Error replies in a row.
    errors: AtomicU32,
    answers: Arc<LastAnswer>,
    /// Wakes the reconnecting task when the circuit breaker opens.
    lost: Notify,
    script: Arc<Script>,
    options: SharedOptions,
    /// Calls that were decided by `on_timeout`.
    timeouts: AtomicU64,
    /// `None`: every call makes a round trip.
    leases: Option<PermitLeases>,
    runtime: Handle,
}

impl SharedLimiter {
    /// Not connected: [`Self::keep_connected`] does that. Answers that come too late are read on `runtime`.
    ///
    /// # Errors
    ///
    /// A URL that cannot be parsed.
    pub fn new(
        url: &str,
        options: SharedOptions,
        leases: Option<PermitLeases>,
        runtime: &Handle,
    ) -> Result<Arc<Self>, RedisError> {
        let client = Client::open(server_url::trimmed(url))?;
        Ok(Arc::new(Self {
            client,
            connection: ArcSwapOption::empty(),
            errors: AtomicU32::new(0),
            answers: Arc::new(LastAnswer::new()),
            lost: Notify::new(),
            script: Arc::new(Script::new(include_str!("window.lua"))),
            options,
            timeouts: AtomicU64::new(0),
            leases,
            runtime: runtime.clone(),
        }))
    }

    /// Connects, and again whenever the connection is lost. Never returns.
    pub async fn keep_connected(&self) {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_pipeline_buffer_size(PIPELINE_BUFFER);
        let (mut was_connected, mut failure_logged) = (false, false);
        loop {
            match timeout(CONNECT_TIMEOUT, connect(&self.client, &config)).await {
                Ok(Ok(connection)) => {
                    self.answers.note();
                    self.errors.store(0, Ordering::Relaxed);
                    self.connection.store(Some(Arc::new(connection)));
                    if was_connected {
                        tracing::info!("rate limit store reconnected, limits are shared again");
                    } else {
                        tracing::info!("rate limit store connected, limits are shared");
                    }
                    (was_connected, failure_logged) = (true, true);
                    self.lost.notified().await;
                }
                Ok(Err(error)) if !failure_logged => {
                    tracing::warn!(
                        %error,
                        "rate limit store unreachable, retrying; each replica enforces the whole limit by itself"
                    );
                    failure_logged = true;
                }
                _ => {}
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    /// Whether the server is available.
    pub(crate) fn is_up(&self) -> bool {
        self.connection.load().is_some()
    }

    /// Number of calls that the server did not answer in time while it was available.
    pub(crate) fn timeouts(&self) -> u64 {
        self.timeouts.load(Ordering::Relaxed)
    }

    /// Spends without a round trip; `None` if one is needed.
    pub fn spend_local(&self, subject: Subject, limit: RateLimit, cost: u32) -> Option<SpendResult> {
        self.leases.as_ref()?.spend(subject, limit, cost)
    }

    /// Spends on the server. Waits at most for `timeout` while the server answers others, and for the longer of
    /// [`OUTAGE_AFTER`] and two timeouts while it answers nothing.
    pub async fn spend(&self, subject: Subject, limit: RateLimit, cost: u32) -> SharedSpend {
        let request = match self.leases.as_ref().map(|leases| leases.spend_or_request(subject, limit, cost)) {
            Some(SpendStart::Done(spent)) => return SharedSpend::Counted(spent),
            Some(SpendStart::Request(request)) => Some(request),
            None => None,
        };
        let Some(connection) = self.connection.load_full() else { return SharedSpend::Unavailable };
        let client = ScriptClient { script: Arc::clone(&self.script), connection: (*connection).clone() };
        let extra_permits = request.as_ref().map_or(0, |request| request.extra_permits);
        let returned = request.as_ref().and_then(|request| request.returned);
        let call = ScriptCall { subject, limit, cost, extra_permits, returned };
        let mut pending = client.clone().call(call);
        match self.wait(&mut pending).await {
            Wait::Answered(reply) => SharedSpend::Counted(match request {
                Some(request) => request.complete(reply.spent, Some(reply.grant)),
                None => reply.spent,
            }),
            Wait::Unavailable => SharedSpend::Unavailable,
            Wait::TimedOut => {
                self.timeouts.fetch_add(1, Ordering::Relaxed);
                let admitted = self.options.on_timeout == OnTimeout::Admit;
                self.runtime.spawn(client.settle(call, pending, !admitted, Arc::clone(&self.answers)));
                SharedSpend::TimedOut { admitted, retry_after: self.options.timeout }
            }
        }
    }

    /// Waits for the answer to a call, or until it is late or the server is considered unavailable.
    async fn wait(&self, pending: &mut PendingCall) -> Wait {
        let sent = Instant::now();
        let wait = self.options.timeout;
        if let Ok(answer) = timeout(wait, &mut *pending).await {
            return self.answered(answer);
        }
        let silent = self.answers.silent_since(sent);
        if silent < wait / 2 {
            return Wait::TimedOut;
        }
        // Nothing was answered lately: the server stalls or is unavailable, and a longer wait shows which. The wait
        // counts from now, not from the sending: if this process got no CPU meanwhile, the answer may already be in the
        // socket.
        let outage = OUTAGE_AFTER.max(2 * wait);
        if let Ok(answer) = timeout(outage.saturating_sub(silent).max(wait), &mut *pending).await {
            return self.answered(answer);
        }
        if self.answers.silent_since(sent) < outage {
            return Wait::TimedOut;
        }
        self.open_breaker();
        Wait::Unavailable
    }

    fn answered(&self, answer: Result<ScriptReply, RedisError>) -> Wait {
        match answer {
            Ok(reply) => {
                self.errors.store(0, Ordering::Relaxed);
                self.answers.note();
                Wait::Answered(reply)
            }
            Err(error) => {
                tracing::debug!(%error, "rate limit store call failed");
                let in_a_row = self.errors.fetch_add(1, Ordering::Relaxed) + 1;
                if in_a_row >= MAX_ERRORS || error.is_io_error() || error.is_unrecoverable_error() {
                    self.open_breaker();
                }
                Wait::Unavailable
            }
        }
    }

    fn open_breaker(&self) {
        if self.connection.swap(None).is_some() {
            tracing::warn!("rate limit store unavailable, each replica enforces the whole limit by itself");
            self.lost.notify_one();
        }
    }

    /// Drops local state that has expired.
    pub fn sweep(&self) {
        if let Some(leases) = &self.leases {
            leases.sweep();
        }
    }

    /// Number of subjects in this replica's memory.
    pub fn subjects(&self) -> usize {
        self.leases.as_ref().map_or(0, PermitLeases::len)
    }
}

/// How the wait for an answer ended.
enum Wait {
    Answered(ScriptReply),
    TimedOut,
    Unavailable,
}

/// Keeps a connection open for as long as the limiter exists.
async fn connect(client: &Client, config: &AsyncConnectionConfig) -> Result<MultiplexedConnection, RedisError> {
    let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
    redis::cmd("PING").query_async::<()>(&mut connection).await?;
    Ok(connection)
}
