//! Limits shared by many replicas, in Redis or Valkey: one script, one round trip, on the server's clock.
//!
//! No caller waits for an unavailable server. Each call has a timeout (`rate_limit.timeout`). After several failures in a
//! row the circuit breaker opens: the connection is dropped, and a background task reconnects.
//!
//! With permit leases, a call takes permits ahead of need, and most calls need no round trip.

use std::{
    sync::{
        Arc, Weak,
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
    permit_leases::{PermitLeases, PermitRequest, SpendStart},
    subject::Subject,
};
use crate::domain::rate_limit::{
    RateLimit, RateState, SpendResult,
    permit_lease::{Grant, GrantOrigin},
};

/// Number of failures in a row after which the circuit breaker may open.
const MAX_FAILURES: u32 = 5;
/// Redis is considered down once no call has been answered for this long, and for twice the timeout of a call. A stall of
/// one timeout fails every call in flight; that alone must not open the circuit breaker, since reconnecting fails far more
/// calls.
const UNRESPONSIVE_AFTER: Duration = Duration::from_millis(100);
/// Delay between two attempts to connect.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// Timeout of one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a task that holds a connection checks whether its limiter still exists.
const OWNER_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of calls queued on the connection, for all callers together. The library's default is 50.
const PIPELINE_BUFFER: usize = 4_096;

/// The connection to the shared store, and whether it works.
pub struct SharedLimiter {
    /// `None` while the server is unavailable.
    connection: ArcSwapOption<MultiplexedConnection>,
    /// Failures in a row.
    failures: AtomicU32,
    started: Instant,
    /// Time of the last answer, in microseconds since `started`.
    answered: AtomicU64,
    /// Wakes the reconnecting task when the circuit breaker opens.
    lost: Notify,
    script: Script,
    call_timeout: Duration,
    /// `None`: every call makes a round trip.
    leases: Option<PermitLeases>,
}

impl SharedLimiter {
    /// Starts connecting on `runtime`. A call that takes longer than `call_timeout` fails; it is at most a second.
    ///
    /// # Errors
    ///
    /// A URL that cannot be parsed.
    pub fn start(
        url: &str,
        call_timeout: Duration,
        leases: Option<PermitLeases>,
        runtime: &Handle,
    ) -> Result<Arc<Self>, RedisError> {
        let client = Client::open(url)?;
        let limiter = Arc::new(Self {
            connection: ArcSwapOption::empty(),
            failures: AtomicU32::new(0),
            started: Instant::now(),
            answered: AtomicU64::new(0),
            lost: Notify::new(),
            script: Script::new(include_str!("window.lua")),
            call_timeout,
            leases,
        });
        runtime.spawn(keep_connected(Arc::downgrade(&limiter), client));
        Ok(limiter)
    }

    /// Whether the server is available.
    pub(crate) fn is_up(&self) -> bool {
        self.connection.load().is_some()
    }

    /// Spends without a round trip; `None` if one is needed.
    pub fn spend_local(&self, subject: Subject, limit: RateLimit, cost: u32) -> Option<SpendResult> {
        self.leases.as_ref()?.spend(subject, limit, cost)
    }

    /// Spends on the server; `None` if it is unavailable or does not answer in time.
    pub async fn spend(&self, subject: Subject, limit: RateLimit, cost: u32) -> Option<SpendResult> {
        let request = match self.leases.as_ref().map(|leases| leases.spend_or_request(subject, limit, cost)) {
            Some(SpendStart::Done(spent)) => return Some(spent),
            Some(SpendStart::Request(request)) => Some(request),
            None => None,
        };
        let answer = self.call_script(subject, limit, cost, request.as_ref()).await?;
        let [admitted, remaining, reset, wait, ..] = answer[..] else { return None };
        let spent = SpendResult {
            admitted: admitted == 1,
            state: RateState {
                limit: limit.limit,
                remaining: u32::try_from(remaining).unwrap_or(0),
                reset_at: reset.saturating_mul(1_000),
                retry_after: (wait >= 0).then(|| wait.saturating_mul(1_000)),
            },
        };
        Some(match request {
            Some(request) => request.complete(spent, grant(&answer)),
            None => spent,
        })
    }

    /// Drops local state that no longer matters.
    pub fn sweep(&self) {
        if let Some(leases) = &self.leases {
            leases.sweep();
        }
    }

    /// Number of subjects in this replica's memory.
    pub fn subjects(&self) -> usize {
        self.leases.as_ref().map_or(0, PermitLeases::len)
    }

    /// One round trip. Returns the script's answer.
    async fn call_script(
        &self,
        subject: Subject,
        limit: RateLimit,
        cost: u32,
        request: Option<&PermitRequest<'_>>,
    ) -> Option<Vec<i64>> {
        let mut connection = MultiplexedConnection::clone(&*self.connection.load_full()?);
        let mut call = self.script.prepare_invoke();
        call.key(key(subject, limit)).arg(limit.limit).arg(limit.window / 1_000).arg(cost).arg(0);
        if let Some(request) = request {
            let (permits, origin) = request.returned.unwrap_or((0, GrantOrigin { bucket: 0, window: 0 }));
            call.arg(request.wanted).arg(permits).arg(origin.bucket).arg(origin.window);
        }
        match timeout(self.call_timeout, call.invoke_async(&mut connection)).await {
            Ok(Ok(answer)) => {
                self.on_answer();
                Some(answer)
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "rate limit store call failed");
                self.on_failure(true);
                None
            }
            Err(_) => {
                self.on_failure(false);
                None
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn on_answer(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.answered.store(self.now(), Ordering::Relaxed);
    }

    /// Counts a failed call: an error, or only a timeout. Opens the circuit breaker after enough of them.
    fn on_failure(&self, error: bool) {
        let in_a_row = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let unanswered = Duration::from_micros(self.now().saturating_sub(self.answered.load(Ordering::Relaxed)));
        if in_a_row >= MAX_FAILURES
            && (error || unanswered >= UNRESPONSIVE_AFTER.max(2 * self.call_timeout))
            && self.connection.swap(None).is_some()
        {
            tracing::warn!("rate limit store unavailable, each replica enforces the whole limit by itself");
            self.lost.notify_one();
        }
    }
}

/// The permits that the script granted ahead of need.
fn grant(answer: &[i64]) -> Option<Grant> {
    let [permits, left, bucket, window] = *answer.get(4..)? else { return None };
    let permits = u32::try_from(permits).ok()?;
    Some(Grant { permits, left: left.saturating_mul(1_000), origin: GrantOrigin { bucket, window } })
}

/// The Redis key of a window. Its braces keep it in one slot of a cluster.
fn key(subject: Subject, limit: RateLimit) -> String {
    let Subject(high, low) = subject;
    format!("keyward:rate:{{{high:016x}{low:016x}}}:{}", limit.window)
}

/// Keeps a connection open for as long as the limiter exists.
async fn keep_connected(limiter: Weak<SharedLimiter>, client: Client) {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(CONNECT_TIMEOUT))
        .set_pipeline_buffer_size(PIPELINE_BUFFER);
    let (mut was_connected, mut failure_logged) = (false, false);
    loop {
        let connected = timeout(CONNECT_TIMEOUT, connect(&client, &config)).await;
        let Some(this) = limiter.upgrade() else { return };
        match connected {
            Ok(Ok(connection)) => {
                this.on_answer();
                this.connection.store(Some(Arc::new(connection)));
                if was_connected {
                    tracing::info!("rate limit store reconnected, limits are shared again");
                } else {
                    tracing::info!("rate limit store connected, limits are shared");
                }
                (was_connected, failure_logged) = (true, true);
                let lost = this.lost.notified();
                tokio::pin!(lost);
                while timeout(OWNER_CHECK_INTERVAL, &mut lost).await.is_err() {
                    if Arc::strong_count(&this) == 1 {
                        return;
                    }
                }
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
        drop(this);
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn connect(client: &Client, config: &AsyncConnectionConfig) -> Result<MultiplexedConnection, RedisError> {
    let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
    redis::cmd("PING").query_async::<()>(&mut connection).await?;
    Ok(connection)
}
