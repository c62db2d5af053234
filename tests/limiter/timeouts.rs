//! Calls that Redis answers too late, although it is available: they are never admitted on top of what it counts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use keyward::{
    domain::{
        clock::{SECOND, SystemClock},
        rate_limit::{OnTimeout, RateLimit},
    },
    limiter::{
        Limiter, Subject,
        permit_leases::PermitLeases,
        redis::{SharedLimiter, SharedOptions},
    },
};
use tokio::runtime::Handle;

use crate::{LONG_TIMEOUT, connected, proxy::Proxy, redis_server::RedisServer, replica, subject, until};

/// Answers arrive in bunches, each this late: some of the calls wait for longer than [`TIMEOUT`] although others are
/// answered.
const DELAY: Duration = Duration::from_millis(60);
const TIMEOUT: Duration = Duration::from_millis(50);
const LIMIT: RateLimit = RateLimit { limit: 200, window: 3_600 * SECOND };
/// On a busy machine Redis may seem to be unavailable. Then try again, with another key.
const ATTEMPTS: u128 = 20;

struct Slow {
    redis: RedisServer,
    _proxy: Proxy,
    limiter: Arc<Limiter>,
}

/// A limiter whose answers are late.
async fn slow(on_timeout: OnTimeout, batch: Option<u32>) -> Slow {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.url().strip_prefix("redis://").unwrap().parse().unwrap()).await;
    let leases = batch.map(|batch| PermitLeases::new(Arc::new(SystemClock), batch));
    let options = SharedOptions { timeout: TIMEOUT, on_timeout };
    let shared = SharedLimiter::new(&format!("redis://{}", proxy.address()), options, leases, &Handle::current());
    let limiter = connected(shared.unwrap()).await;
    proxy.delay_replies(DELAY);
    Slow { redis, _proxy: proxy, limiter }
}

/// Many callers at once. Returns how many calls were admitted.
async fn burst(limiter: &Arc<Limiter>, subject: Subject, limit: RateLimit) -> u32 {
    let admitted = Arc::new(AtomicU32::new(0));
    let callers: Vec<_> = (0..30_u64)
        .map(|caller| {
            let (limiter, admitted) = (Arc::clone(limiter), Arc::clone(&admitted));
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(caller * 3)).await;
                for _ in 0..20 {
                    let spent = limiter.spend(subject, limit, 1).await;
                    admitted.fetch_add(u32::from(spent.admitted), Ordering::Relaxed);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    admitted.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_refused_call_took_is_given_back_and_the_limit_is_met_exactly() {
    let Slow { redis, _proxy, limiter } = slow(OnTimeout::Refuse, None).await;
    let direct = replica(&redis, LONG_TIMEOUT).await;
    for attempt in 0..ATTEMPTS {
        until(|| limiter.is_shared() == Some(true)).await;
        let (fallbacks, timeouts) = (limiter.fallbacks(), limiter.timeouts());
        let mut admitted = burst(&limiter, subject(attempt), LIMIT).await;
        assert!(admitted <= LIMIT.limit || limiter.fallbacks() > fallbacks, "{admitted} of {}", LIMIT.limit);
        // The answers to refused calls are still on their way. What they took comes back.
        let start = Instant::now();
        while admitted < LIMIT.limit && start.elapsed() < Duration::from_secs(10) {
            admitted += u32::from(direct.spend(subject(attempt), LIMIT, 1).await.admitted);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if limiter.fallbacks() > fallbacks || limiter.timeouts() == timeouts || direct.fallbacks() > 0 {
            continue;
        }
        tokio::time::sleep(2 * DELAY).await;
        let spent = direct.spend(subject(attempt), LIMIT, 1).await;
        assert_eq!((admitted, spent.admitted), (LIMIT.limit, false), "{} timeouts", limiter.timeouts() - timeouts);
        return;
    }
    panic!("in each of {ATTEMPTS} attempts Redis seemed to be unavailable, or no call timed out");
}

#[tokio::test(flavor = "multi_thread")]
async fn permits_of_a_late_answer_are_given_back() {
    const BATCH: u32 = 8;
    let Slow { redis, _proxy, limiter } = slow(OnTimeout::Refuse, Some(BATCH)).await;
    let direct = replica(&redis, LONG_TIMEOUT).await;
    let limit = RateLimit { limit: 1_000_000, ..LIMIT };
    for attempt in 0..ATTEMPTS {
        until(|| limiter.is_shared() == Some(true)).await;
        let (fallbacks, timeouts) = (limiter.fallbacks(), limiter.timeouts());
        let admitted = burst(&limiter, subject(attempt), limit).await;
        let counted = async || limit.limit - direct.spend(subject(attempt), limit, 0).await.state.remaining;
        let start = Instant::now();
        // Only the permits of one lease may stay counted without being spent.
        while counted().await >= admitted + BATCH && start.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if limiter.fallbacks() > fallbacks || limiter.timeouts() == timeouts || direct.fallbacks() > 0 {
            continue;
        }
        let counted = counted().await;
        assert!((admitted..admitted + BATCH).contains(&counted), "{admitted} were admitted, {counted} are counted");
        return;
    }
    panic!("in each of {ATTEMPTS} attempts Redis seemed to be unavailable, or no call timed out");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_may_have_late_calls_admitted() {
    let Slow { redis: _redis, _proxy, limiter } = slow(OnTimeout::Admit, None).await;
    let limit = RateLimit { limit: 1, ..LIMIT };
    for attempt in 0..ATTEMPTS {
        until(|| limiter.is_shared() == Some(true)).await;
        let (fallbacks, timeouts) = (limiter.fallbacks(), limiter.timeouts());
        let admitted = u64::from(burst(&limiter, subject(attempt), limit).await);
        let late = limiter.timeouts() - timeouts;
        if limiter.fallbacks() > fallbacks || late < 2 {
            continue;
        }
        // The one call that the server admitted may have been late itself.
        assert!((late..=late + 1).contains(&admitted), "{admitted} admitted, {late} late");
        return;
    }
    panic!("in each of {ATTEMPTS} attempts Redis seemed to be unavailable, or no call timed out");
}
