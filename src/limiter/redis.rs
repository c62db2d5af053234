//! Limits that many replicas share, in Redis or Valkey: one script, one round trip, on the server's clock.
//!
//! No call waits for a server that is away. Calls are bounded at `PATIENCE`; after a few errors in a row, or a silence,
//! the connection is given up and a task of its own looks for the server until it is back.
//!
//! With leases a call takes permits ahead of need, and most calls then take no round trip.

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
    Subject,
    permit_leases::{PermitLeases, PermitRequest, SpendStart},
};
use crate::domain::rate_limit::{
    RateLimit, RateState, SpendResult,
    lease::{Grant, GrantOrigin},
};

/// How long one call may take.
const PATIENCE: Duration = Duration::from_millis(5);
/// Failures in a row after which the connection is given up.
const FAILURES: u32 = 5;
/// How long it may answer nothing before that. A stall of a few milliseconds fails all the calls in flight, which are as
/// many as there are; to give the connection up for it would cost far more calls than these.
const SILENCE: Duration = Duration::from_millis(100);
/// Between two looks for a server that is away.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a new connection may take.
const CONNECTING: Duration = Duration::from_secs(1);

/// The way to a shared server, and whether it works.
pub struct SharedLimiter {
    /// None while the server is away.
    connection: ArcSwapOption<MultiplexedConnection>,
    failures: AtomicU32,
    started: Instant,
    /// When the server answered last, in microseconds after the start.
    answered: AtomicU64,
    lost: Notify,
    script: Script,
    /// None: each call asks.
    leases: Option<PermitLeases>,
}

impl SharedLimiter {
    /// Starts looking for the server on `runtime`.
    ///
    /// # Errors
    ///
    /// A URL that cannot be read.
    pub fn start(url: &str, leases: Option<PermitLeases>, runtime: &Handle) -> Result<Arc<Self>, RedisError> {
        let client = Client::open(url)?;
        let limiter = Arc::new(Self {
            connection: ArcSwapOption::empty(),
            failures: AtomicU32::new(0),
            started: Instant::now(),
            answered: AtomicU64::new(0),
            lost: Notify::new(),
            script: Script::new(include_str!("window.lua")),
            leases,
        });
        runtime.spawn(keep(Arc::downgrade(&limiter), client));
        Ok(limiter)
    }

    /// Whether the server is there.
    pub fn is_up(&self) -> bool {
        self.connection.load().is_some()
    }

    /// Spends without asking the server; none if that cannot be.
    pub fn spend_local(&self, subject: Subject, limit: RateLimit, cost: u32) -> Option<SpendResult> {
        self.leases.as_ref()?.spend(subject, limit, cost)
    }

    /// Spends on the server; none if it is away or does not answer in time.
    pub async fn spend(&self, subject: Subject, limit: RateLimit, cost: u32) -> Option<SpendResult> {
        let asking = match self.leases.as_ref().map(|leases| leases.spend_or_request(subject, limit, cost)) {
            Some(SpendStart::Done(spent)) => return Some(spent),
            Some(SpendStart::Request(asking)) => Some(asking),
            None => None,
        };
        let answer = self.request(subject, limit, cost, asking.as_ref()).await?;
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
        Some(match asking {
            Some(asking) => asking.settle(spent, grant(&answer)),
            None => spent,
        })
    }

    /// Forgets what no longer matters.
    pub fn sweep(&self) {
        if let Some(leases) = &self.leases {
            leases.sweep();
        }
    }

    /// Subjects in this replica's memory.
    pub fn subjects(&self) -> usize {
        self.leases.as_ref().map_or(0, PermitLeases::len)
    }

    /// One round trip; the script's answer.
    async fn request(
        &self,
        subject: Subject,
        limit: RateLimit,
        cost: u32,
        asking: Option<&PermitRequest<'_>>,
    ) -> Option<Vec<i64>> {
        let mut connection = MultiplexedConnection::clone(&*self.connection.load_full()?);
        let mut call = self.script.prepare_invoke();
        call.key(key(subject, limit)).arg(limit.limit).arg(limit.window / 1_000).arg(cost).arg(0);
        if let Some(asking) = asking {
            let (permits, origin) = asking.back.unwrap_or((0, GrantOrigin { bucket: 0, window: 0 }));
            call.arg(asking.ask).arg(permits).arg(origin.bucket).arg(origin.window);
        }
        match timeout(PATIENCE, call.invoke_async(&mut connection)).await {
            Ok(Ok(answer)) => {
                self.answered();
                Some(answer)
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "the rate limit server refused a call");
                self.failed(true);
                None
            }
            Err(_) => {
                self.failed(false);
                None
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn answered(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.answered.store(self.now(), Ordering::Relaxed);
    }

    /// A call was broken off, or was merely not answered in time.
    fn failed(&self, broken: bool) {
        let row = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let silence = Duration::from_micros(self.now().saturating_sub(self.answered.load(Ordering::Relaxed)));
        if row >= FAILURES && (broken || silence >= SILENCE) && self.connection.swap(None).is_some() {
            tracing::warn!("the rate limit server is away: each replica limits by itself, the whole limit each");
            self.lost.notify_one();
        }
    }
}

/// What the script gave ahead of need.
fn grant(answer: &[i64]) -> Option<Grant> {
    let [permits, left, bucket, window] = *answer.get(4..)? else { return None };
    let permits = u32::try_from(permits).ok()?;
    Some(Grant { permits, left: left.saturating_mul(1_000), origin: GrantOrigin { bucket, window } })
}

/// The name of a window. Its braces keep it in one slot of a cluster.
fn key(subject: Subject, limit: RateLimit) -> String {
    let Subject(high, low) = subject;
    format!("keyward:rate:{{{high:016x}{low:016x}}}:{}", limit.window)
}

/// Keeps a connection for as long as the limiter lives.
async fn keep(limiter: std::sync::Weak<SharedLimiter>, client: Client) {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECTING))
        .set_response_timeout(Some(CONNECTING))
        // The default of 50 is soon full: it holds what all callers have in flight.
        .set_pipeline_buffer_size(4_096);
    let mut told = false;
    loop {
        let found = async {
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            redis::cmd("PING").query_async::<()>(&mut connection).await?;
            Ok::<_, RedisError>(connection)
        };
        let found = timeout(CONNECTING, found).await;
        let Some(this) = limiter.upgrade() else { return };
        match found {
            Ok(Ok(connection)) => {
                this.answered();
                this.connection.store(Some(Arc::new(connection)));
                tracing::info!("the rate limit server is there: limits are shared");
                told = true;
                let lost = this.lost.notified();
                tokio::pin!(lost);
                while tokio::time::timeout(CONNECTING, &mut lost).await.is_err() {
                    if Arc::strong_count(&this) == 1 {
                        return;
                    }
                }
            }
            Ok(Err(error)) if !told => {
                tracing::warn!(%error, "the rate limit server cannot be reached: each replica limits by itself");
                told = true;
            }
            _ => {}
        }
        drop(this);
        tokio::time::sleep(PAUSE).await;
    }
}
