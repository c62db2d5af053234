//! Limits shared through a real Redis: the arithmetic, exactness across replicas, and the behavior during an outage.

mod connection;
#[path = "../support/postgres.rs"]
mod database;
mod leases;
#[path = "../support/proxy.rs"]
mod proxy;
mod redis_server;
mod replicas;
mod size;
#[path = "../support/mod.rs"]
mod support;
mod timeouts;

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
        key::KeyId,
        rate_limit::{OnTimeout, RateLimit, SlidingWindow},
    },
    limiter::{
        Limiter, Subject,
        memory::MemoryLimiter,
        redis::{SharedLimiter, SharedOptions},
    },
};
use redis_server::RedisServer;
use tokio::runtime::Handle;

const LIMIT: RateLimit = RateLimit { limit: 1_000, window: 3_600 * SECOND };

fn subject(number: u128) -> Subject {
    Subject::key(KeyId(uuid::Uuid::from_u128(number)))
}

/// A timeout that a call misses only if the server does not answer.
const LONG_TIMEOUT: Duration = Duration::from_secs(1);
/// A timeout that a busy machine may miss.
const SHORT_TIMEOUT: Duration = Duration::from_millis(5);

/// Refuses calls that time out, as replicas do by default.
fn refusing(timeout: Duration) -> SharedOptions {
    SharedOptions { timeout, on_timeout: OnTimeout::Refuse }
}

async fn replica(redis: &RedisServer, call_timeout: Duration) -> Arc<Limiter> {
    connected(SharedLimiter::new(&redis.url(), refusing(call_timeout), None, &Handle::current()).unwrap()).await
}

/// A limiter that shares its limits by now.
async fn connected(shared: Arc<SharedLimiter>) -> Arc<Limiter> {
    let limiter = Arc::new(Limiter::new(MemoryLimiter::new(Arc::new(SystemClock)), Some(shared)));
    let connecting = Arc::clone(&limiter);
    tokio::spawn(async move { connecting.keep_connected().await });
    until(|| limiter.is_shared() == Some(true)).await;
    limiter
}

/// Waits for a condition, with a timeout.
async fn until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "timed out");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Spends once. `None` if the call fell back to the local limiter: on a busy machine a call may miss its timeout.
async fn spend_shared(limiter: &Limiter, number: u128, cost: u32) -> Option<bool> {
    let before = limiter.fallbacks();
    let spent = limiter.spend(subject(number), LIMIT, cost).await;
    (limiter.fallbacks() == before).then_some(spent.admitted)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_agrees_with_the_rust_arithmetic() {
    let redis = RedisServer::start();
    let mut connection = redis.connection().await;
    let script = redis::Script::new(include_str!("../../src/limiter/window.lua"));
    // A seeded random walk, with windows that 12 does not divide, reads, and costs above the limit.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: i64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(seed >> 33).unwrap() % below
    };
    for round in 0..30 {
        let window = if round % 2 == 0 { 60_000 } else { 1_000 + random(100_000) };
        let limit = RateLimit { limit: u32::try_from(1 + random(20)).unwrap(), window: window * 1_000 };
        let mut now = 1_700_000_000_000 + random(1_000_000);
        let mut model = SlidingWindow::empty(limit, now * 1_000);
        for call in 0..60 {
            now += random(window / 6);
            let cost = u32::try_from(random(4)).unwrap() * u32::from(call % 7 != 0) + 25 * u32::from(call % 29 == 28);
            let expected = model.spend(limit, now * 1_000, cost);
            let answer: (u8, u32, i64, i64) = script
                .key(format!("test:{round}"))
                .arg(limit.limit)
                .arg(window)
                .arg(cost)
                .arg(now)
                .invoke_async(&mut connection)
                .await
                .unwrap();
            // The script returns whole milliseconds, rounded up, as REST does.
            let millis = |micros: i64| (micros + 999).div_euclid(1_000);
            let wait = expected.state.retry_after.map_or(-1, millis);
            let expected =
                (u8::from(expected.admitted), expected.state.remaining, millis(expected.state.reset_at), wait);
            assert_eq!(answer, expected, "round {round}, call {call}: {limit:?} at {now} for {cost}");
        }
    }
}

#[tokio::test]
async fn a_server_clock_that_steps_back_neither_frees_calls_early_nor_keeps_them_for_ever() {
    let redis = RedisServer::start();
    let mut connection = redis.connection().await;
    let script = redis::Script::new(include_str!("../../src/limiter/window.lua"));
    let window = 60_000;
    let start = 1_700_000_000_000_i64;
    let stepped = start - 10 * window;
    for (at, admitted) in [
        (start, 1),
        (stepped, 0),
        (stepped + window - 1, 0),
        // At the latest a window and two buckets after the step.
        (stepped + window + window / 6, 1),
    ] {
        let mut call = script.prepare_invoke();
        call.key("test:step").arg(1).arg(window).arg(1).arg(at);
        let answer: (u8, u32, i64, i64) = call.invoke_async(&mut connection).await.unwrap();
        assert_eq!(answer.0, admitted, "at {at}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_together_admit_exactly_the_limit() {
    let redis = RedisServer::start();
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(replica(&redis, LONG_TIMEOUT).await);
    }
    let (admitted, shared) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut callers = Vec::new();
    for caller in 0..12 {
        let limiter = Arc::clone(&replicas[caller % 3]);
        let (admitted, shared) = (Arc::clone(&admitted), Arc::clone(&shared));
        callers.push(tokio::spawn(async move {
            for _ in 0..400 {
                let Some(good) = spend_shared(&limiter, 1, 1).await else { continue };
                shared.fetch_add(1, Ordering::Relaxed);
                admitted.fetch_add(u32::from(good), Ordering::Relaxed);
            }
        }));
    }
    for caller in callers {
        caller.await.unwrap();
    }
    let state = loop {
        let before = replicas[0].fallbacks();
        let state = replicas[0].spend(subject(1), LIMIT, 0).await.state;
        if replicas[0].fallbacks() == before {
            break state;
        }
    };
    let (admitted, shared) = (admitted.load(Ordering::Relaxed), shared.load(Ordering::Relaxed));
    // A call that timed out may have been counted by the server all the same. Then fewer calls than the limit are
    // admitted, never more.
    assert!(admitted <= LIMIT.limit);
    assert!(shared < 12 * 400 || admitted == LIMIT.limit, "{admitted} admitted, and no call timed out");
    assert!(shared > 2_000, "most calls were shared");
    assert_eq!(state.remaining, 0, "together they spent the whole limit, and each replica sees that");
}

#[tokio::test(flavor = "multi_thread")]
async fn during_an_outage_each_replica_limits_by_itself_and_afterwards_limits_are_shared_again() {
    let mut redis = RedisServer::start();
    let limiter = replica(&redis, SHORT_TIMEOUT).await;
    let small = RateLimit { limit: 3, window: 3_600 * SECOND };
    redis.stop();
    let mut admitted = 0;
    let start = Instant::now();
    for _ in 0..200 {
        admitted += u32::from(limiter.spend(subject(2), small, 1).await.admitted);
    }
    assert_eq!(
        admitted, small.limit,
        "the local limit is the whole limit, and no call was refused because of the outage"
    );
    assert!(start.elapsed() < Duration::from_secs(5), "no call waits for an unavailable server");
    until(|| limiter.is_shared() == Some(false)).await;
    assert!(limiter.fallbacks() >= 100);
    redis.restart();
    until(|| limiter.is_shared() == Some(true)).await;
    let mut shared = 0;
    for _ in 0..50 {
        shared += u32::from(spend_shared(&limiter, 3, 1).await.is_some());
    }
    assert!(shared > 0, "limits are shared again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_server_delays_no_call() {
    let redis = RedisServer::start();
    let limiter = replica(&redis, SHORT_TIMEOUT).await;
    redis.signal("STOP");
    let start = Instant::now();
    for number in 0..200 {
        assert!(limiter.spend(subject(number), LIMIT, 1).await.admitted);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "calls time out, and then the circuit breaker opens");
    redis.signal("CONT");
    until(|| limiter.is_shared() == Some(true)).await;
}

/// A replica that limits by itself admits a whole limit of its own, so a short stall must not make it do so. The calls in
/// flight wait, and are counted once, by the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_short_stall_delays_the_calls_in_flight_and_counts_none_of_them_locally() {
    let redis = RedisServer::start();
    let limiter = replica(&redis, SHORT_TIMEOUT).await;
    // A busy machine may lengthen the stall. Then try again.
    for attempt in 0..20 {
        until(|| limiter.is_shared() == Some(true)).await;
        let before = limiter.fallbacks();
        let subject = subject(100 + attempt);
        let start = Instant::now();
        redis.signal("STOP");
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let limiter = Arc::clone(&limiter);
                tokio::spawn(async move { limiter.spend(subject, LIMIT, 1).await.admitted })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(80)).await;
        redis.signal("CONT");
        let stall = start.elapsed();
        let mut admitted = 0;
        for call in calls {
            admitted += u32::from(call.await.unwrap());
        }
        if stall < Duration::from_millis(160) {
            assert_eq!(limiter.fallbacks(), before, "attempt {attempt}: calls were counted locally after {stall:?}");
            assert_eq!(limiter.is_shared(), Some(true));
            let counted = || async { LIMIT.limit - limiter.spend(subject, LIMIT, 0).await.state.remaining };
            assert_eq!((admitted, counted().await), (50, 50));
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("no stall was short enough");
}

#[tokio::test]
async fn windows_expire_by_themselves() {
    let redis = RedisServer::start();
    let mut connection = redis.connection().await;
    let script = redis::Script::new(include_str!("../../src/limiter/window.lua"));
    let mut call = script.prepare_invoke();
    call.key("test:ttl").arg(5).arg(1_000).arg(1).arg(0);
    let _: (u8, u32, i64, i64) = call.invoke_async(&mut connection).await.unwrap();
    let left: i64 = redis::cmd("PTTL").arg("test:ttl").query_async(&mut connection).await.unwrap();
    assert!((1..=1_167).contains(&left), "{left} ms");
}
