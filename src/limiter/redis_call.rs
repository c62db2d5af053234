//! One call of the script that counts: its arguments, its reply, and what happens to a reply that comes too late.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{RedisError, Script, aio::MultiplexedConnection};
use tokio::time::Instant;

use super::subject::Subject;
use crate::domain::rate_limit::{
    RateLimit, RateState, SpendResult,
    permit_lease::{Grant, GrantOrigin},
};

/// The arguments of the script.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScriptCall {
    pub subject: Subject,
    pub limit: RateLimit,
    pub cost: u32,
    /// Number of permits to take beyond the cost.
    pub extra_permits: u32,
    /// Unspent permits to return.
    pub returned: Option<(u32, GrantOrigin)>,
}

/// The reply of the script. The grant has no permits if none were granted.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScriptReply {
    pub spent: SpendResult,
    pub grant: Grant,
}

/// A call that is sent as soon as it is polled. It owns what it needs, so that it can outlive its caller.
pub(super) type PendingCall = Pin<Box<dyn Future<Output = Result<ScriptReply, RedisError>> + Send>>;

/// The connection and the script.
#[derive(Clone)]
pub(super) struct ScriptClient {
    pub script: Arc<Script>,
    pub connection: MultiplexedConnection,
}

impl ScriptClient {
    /// Prepares a call.
    pub fn call(mut self, call: ScriptCall) -> PendingCall {
        Box::pin(async move {
            let ScriptCall { subject, limit, cost, extra_permits, returned } = call;
            let (permits, origin) = returned.unwrap_or((0, GrantOrigin { bucket: 0, window: 0 }));
            let mut invocation = self.script.prepare_invoke();
            invocation.key(key(subject, limit)).arg(limit.limit).arg(limit.window / 1_000).arg(cost).arg(0);
            invocation.arg(extra_permits).arg(permits).arg(origin.bucket).arg(origin.window);
            let [admitted, remaining, reset, wait, permits, left, bucket, window]: [i64; 8] =
                invocation.invoke_async(&mut self.connection).await?;
            let state = RateState {
                limit: limit.limit,
                remaining: u32::try_from(remaining).unwrap_or(0),
                reset_at: reset.saturating_mul(1_000),
                retry_after: (wait >= 0).then(|| wait.saturating_mul(1_000)),
            };
            let grant = Grant {
                permits: u32::try_from(permits).unwrap_or(0),
                left: left.saturating_mul(1_000),
                origin: GrantOrigin { bucket, window },
            };
            Ok(ScriptReply { spent: SpendResult { admitted: admitted == 1, state }, grant })
        })
    }

    /// Waits for the reply to a call whose caller has been answered already, and returns the permits that the call took
    /// ahead of need and, if the caller was refused, its cost. If the reply is lost, they stay counted.
    pub async fn settle(self, call: ScriptCall, pending: PendingCall, refused: bool, answers: Arc<LastAnswer>) {
        let Ok(reply) = pending.await else { return };
        answers.note();
        let unused = if refused && reply.spent.admitted { call.cost } else { 0 } + reply.grant.permits;
        if unused > 0 {
            let returned = Some((unused, reply.grant.origin));
            if let Err(error) = self.call(ScriptCall { cost: 0, extra_permits: 0, returned, ..call }).await {
                tracing::debug!(%error, "rate limit store call failed");
            }
        }
    }
}

/// The Redis key of a window. The braces are a hash tag, which determines its slot in a cluster.
fn key(subject: Subject, limit: RateLimit) -> String {
    let Subject(high, low) = subject;
    format!("keyward:rate:{{{high:016x}{low:016x}}}:{}", limit.window)
}

/// When the server last answered anything.
pub(super) struct LastAnswer {
    started: Instant,
    /// In microseconds since `started`.
    at: AtomicU64,
}

impl LastAnswer {
    pub fn new() -> Self {
        Self { started: Instant::now(), at: AtomicU64::new(0) }
    }

    /// Records that the server has answered now.
    pub fn note(&self) {
        let now = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.at.fetch_max(now, Ordering::Relaxed);
    }

    /// How long the server has not answered, counted at most from `sent`: before that, there may have been nothing to
    /// answer.
    pub fn silent_since(&self, sent: Instant) -> Duration {
        let last = self.started + Duration::from_micros(self.at.load(Ordering::Relaxed));
        last.max(sent).elapsed()
    }
}
