//! Permit leases: what the script grants and takes back, and how far the limit can be missed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use keyward::{
    domain::{
        clock::{Clock as _, Micros, SECOND, SystemClock},
        rate_limit::{
            RateLimit, RateState,
            permit_lease::{Grant, GrantOrigin, PermitLease, SHARE},
        },
    },
    limiter::{Limiter, permit_leases::PermitLeases, redis::SharedLimiter},
};
use redis::{Script, aio::MultiplexedConnection};
use tokio::runtime::Handle;

use crate::{LONG_TIMEOUT, connected, redis_server::RedisServer, refusing, subject};

const WINDOW: i64 = 60_000;
const BUCKET: i64 = WINDOW / 12;

/// Calls the script with times that the test chooses.
struct ScriptedWindow {
    connection: MultiplexedConnection,
    script: Script,
    name: &'static str,
    limit: u32,
    length: i64,
}

/// The script's answer, in its own units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ScriptAnswer {
    admitted: bool,
    free: i64,
    granted: i64,
    left: i64,
    origin: GrantOrigin,
}

impl ScriptedWindow {
    async fn new(redis: &RedisServer, name: &'static str, limit: u32, length: i64) -> Self {
        let script = Script::new(include_str!("../../src/limiter/window.lua"));
        Self { connection: redis.connection().await, script, name, limit, length }
    }

    async fn call(&mut self, now: i64, cost: u32, wanted: i64, returned: Option<(i64, GrantOrigin)>) -> ScriptAnswer {
        let (returned, origin) = returned.unwrap_or((0, GrantOrigin { bucket: 0, window: 0 }));
        let mut call = self.script.prepare_invoke();
        call.key(self.name).arg(self.limit).arg(self.length).arg(cost).arg(now);
        call.arg(wanted).arg(returned).arg(origin.bucket).arg(origin.window);
        let answer: [i64; 8] = call.invoke_async(&mut self.connection).await.unwrap();
        let origin = GrantOrigin { bucket: answer[6], window: answer[7] };
        ScriptAnswer { admitted: answer[0] == 1, free: answer[1], granted: answer[4], left: answer[5], origin }
    }
}

#[tokio::test]
async fn the_script_grants_a_share_of_the_remaining_limit_until_the_end_of_the_bucket() {
    let redis = RedisServer::start();
    let mut window = ScriptedWindow::new(&redis, "test:give", 161, WINDOW).await;
    let start = 30_000_000 * WINDOW;
    let share = i64::from(SHARE);
    let first = window.call(start, 1, 100, None).await;
    assert_eq!((first.admitted, first.granted, first.free), (true, 160 / share, 150));
    assert_eq!(first.left, BUCKET - 1, "the server's clock may be up to a millisecond ahead");
    let second = window.call(start + BUCKET - 2, 1, 3, None).await;
    assert_eq!((second.granted, second.left, second.free), (3, 1, 146));
    assert_eq!(second.origin, first.origin);
    // Nothing is granted if no time is left in the bucket, none are wanted, or the call spends nothing or is refused.
    for (at, cost, wanted) in [(BUCKET - 1, 1, 5), (BUCKET, 1, 0), (BUCKET, 0, 5), (BUCKET, 200, 5)] {
        assert_eq!(window.call(start + at, cost, wanted, None).await.granted, 0, "{at} {cost} {wanted}");
    }
    // The last permits are not granted ahead of need.
    let free = window.call(start + BUCKET, 0, 0, None).await.free;
    let last = window.call(start + BUCKET, u32::try_from(free - share + 1).unwrap(), 100, None).await;
    assert_eq!((last.admitted, last.granted, last.free), (true, 0, share - 1));
}

#[tokio::test]
async fn returned_permits_are_free_again_only_in_their_own_bucket_and_window() {
    let redis = RedisServer::start();
    let mut window = ScriptedWindow::new(&redis, "test:back", 160, WINDOW).await;
    let start = 30_000_000 * WINDOW;
    let granted = window.call(start, 16, 100, None).await;
    assert_eq!((granted.granted, granted.free), (9, 135));
    let other = |bucket: i64, window: i64| GrantOrigin {
        bucket: granted.origin.bucket + bucket,
        window: granted.origin.window + window,
    };
    for (what, returned, origin) in [
        ("of another window", 9, other(0, 1)),
        ("of a bucket that has not begun", 9, other(3, 0)),
        ("of a bucket that was never counted", 9, other(-13, 0)),
        ("of a bucket that is empty", 9, other(-1, 0)),
        ("nothing", 0, other(0, 0)),
    ] {
        assert_eq!(window.call(start + BUCKET, 0, 0, Some((returned, origin))).await.free, 135, "{what}");
    }
    assert_eq!(window.call(start + BUCKET, 0, 0, Some((9, granted.origin))).await.free, 144);
    // The change is stored. Returning too many permits frees no more than the bucket had counted.
    assert_eq!(window.call(start + BUCKET, 0, 0, None).await.free, 144);
    assert_eq!(window.call(start + BUCKET, 0, 0, Some((99, granted.origin))).await.free, 160);
    // Permits returned after their bucket has left the window are ignored, and other permits are not touched.
    let late = window.call(start + 13 * BUCKET, 16, 0, Some((9, granted.origin))).await;
    assert_eq!(late.free, 144);
}

/// Permits that were granted before the server lost its data, or before its clock stepped back, must not be subtracted
/// from permits that were granted since.
#[tokio::test]
async fn a_window_that_was_lost_takes_no_permits_back() {
    let redis = RedisServer::start();
    let mut window = ScriptedWindow::new(&redis, "test:lost", 160, WINDOW).await;
    let start = 30_000_000 * WINDOW;
    let before = window.call(start, 16, 100, None).await;
    redis::cmd("FLUSHALL").query_async::<()>(&mut window.connection).await.unwrap();
    assert_eq!(window.call(start + 1, 20, 0, None).await.free, 140);
    assert_eq!(window.call(start + 2, 0, 0, Some((9, before.origin))).await.free, 140);
    let before = window.call(start + 3, 4, 100, None).await;
    assert_eq!((before.granted, before.free), (8, 128));
    // The clock steps back by a window, and reaches the same bucket again later.
    assert_eq!(window.call(start - WINDOW, 0, 0, Some((8, before.origin))).await.free, 128);
    assert_eq!(window.call(start + 4, 0, 0, Some((8, before.origin))).await.free, 128);
}

struct Replica {
    offset: Micros,
    held: Option<PermitLease>,
}

/// Three replicas with arbitrary clocks use the real script. No span of one window holds more than the limit, and the
/// window counts exactly the permits that were spent and those that the replicas hold.
#[tokio::test(flavor = "multi_thread")]
async fn leases_keep_the_limit_and_withhold_no_more_permits_than_replicas_hold() {
    let redis = RedisServer::start();
    let mut seed = 0x1234_5678_9abc_def1_u64;
    let mut random = move |below: i64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(seed >> 33).unwrap() % below
    };
    let names = ["t:0", "t:1", "t:2", "t:3", "t:4", "t:5", "t:6", "t:7", "t:8", "t:9", "t:10", "t:11"];
    let (mut by_lease, mut by_request) = (0, 0);
    for (round, name) in names.into_iter().enumerate() {
        let length = if round % 2 == 0 { WINDOW } else { 1_000 + random(100_000) };
        let limit = RateLimit { limit: u32::try_from(1 + random(300)).unwrap(), window: length * 1_000 };
        let batch = 1 + random(40);
        let mut window = ScriptedWindow::new(&redis, name, limit.limit, length).await;
        let mut replicas = [0, 1, 2].map(|number| Replica { offset: number * 1_000_000_007, held: None });
        let mut now = 1_700_000_000_000 + random(1_000_000);
        let mut log: Vec<(i64, u32)> = Vec::new();
        for _ in 0..250 {
            now += if random(5) == 0 { random(length / 6) } else { random(length / 500 + 1) };
            let replica = &mut replicas[usize::try_from(random(3)).unwrap()];
            let cost = u32::try_from(1 + random(3)).unwrap();
            let own = now * 1_000 + replica.offset;
            if replica.held.as_mut().and_then(|lease| lease.spend(limit, own, cost)).is_some() {
                log.push((now, cost));
                by_lease += 1;
            } else {
                by_request += 1;
                now += random(5);
                let returned = replica.held.take().and_then(|lease| lease.unspent());
                let answer =
                    window.call(now, cost, batch, returned.map(|(permits, origin)| (i64::from(permits), origin))).await;
                if answer.admitted {
                    log.push((now, cost));
                }
                let state = RateState {
                    limit: limit.limit,
                    remaining: u32::try_from(answer.free).unwrap(),
                    reset_at: 0,
                    retry_after: None,
                };
                let permits = u32::try_from(answer.granted).unwrap();
                let grant = Grant { permits, left: answer.left * 1_000, origin: answer.origin };
                replica.held = (permits > 0).then(|| PermitLease::new(limit, own, state, grant));
                now += random(5);
            }
            let within: u32 = log.iter().filter(|(at, _)| now - at < length).map(|(_, cost)| cost).sum();
            assert!(within <= limit.limit, "round {round}: {within} of {limit:?} within one window");
            let bucket = |at: i64| (12 * at).div_euclid(length);
            let counted = |then: i64| (0..=12).contains(&(bucket(now) - then));
            let spent: u32 = log.iter().filter(|(at, _)| counted(bucket(*at))).map(|(_, cost)| cost).sum();
            let unspent = replicas.iter().filter_map(|replica| replica.held?.unspent());
            let unspent: u32 = unspent.filter(|(_, origin)| counted(origin.bucket)).map(|(permits, _)| permits).sum();
            let free = window.call(now, 0, 0, None).await.free;
            assert_eq!(free, i64::from(limit.limit - spent - unspent), "round {round}: {limit:?}");
        }
    }
    assert!(by_lease > 300 && by_request > 300, "{by_lease} by lease, {by_request} by request");
}

async fn replica(redis: &RedisServer, batch: u32) -> Arc<Limiter> {
    let leases = PermitLeases::new(Arc::new(SystemClock), batch);
    let options = refusing(LONG_TIMEOUT);
    connected(SharedLimiter::new(&redis.url(), options, Some(leases), &Handle::current()).unwrap()).await
}

fn fallbacks(replicas: &[Arc<Limiter>]) -> u64 {
    replicas.iter().map(|replica| replica.fallbacks()).sum()
}

/// Maximum number of attempts, each with another key, until no call fell back to the local limiter. On a busy machine
/// calls may miss their timeout.
const ATTEMPTS: u128 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_admit_no_more_than_the_limit_and_hardly_fewer() {
    const BATCH: u32 = 50;
    let limit = RateLimit { limit: 3_000, window: 3_600 * SECOND };
    let redis = RedisServer::start();
    let replicas = [replica(&redis, BATCH).await, replica(&redis, BATCH).await, replica(&redis, BATCH).await];
    for attempt in 0..ATTEMPTS {
        let before = fallbacks(&replicas);
        let admitted = Arc::new(AtomicU32::new(0));
        let mut callers = Vec::new();
        for caller in 0..9 {
            let (limiter, admitted) = (Arc::clone(&replicas[caller % 3]), Arc::clone(&admitted));
            callers.push(tokio::spawn(async move {
                for _ in 0..600 {
                    let spent = limiter.spend(subject(attempt), limit, 1).await;
                    admitted.fetch_add(u32::from(spent.admitted), Ordering::Relaxed);
                }
            }));
        }
        for caller in callers {
            caller.await.unwrap();
        }
        if fallbacks(&replicas) == before {
            let admitted = admitted.load(Ordering::Relaxed);
            let fewest = limit.limit - 3 * (BATCH - 1);
            assert!((fewest..=limit.limit).contains(&admitted), "{admitted} of {limit:?}");
            return;
        }
    }
    panic!("in each of {ATTEMPTS} attempts a call fell back to the local limiter");
}

#[tokio::test(flavor = "multi_thread")]
async fn most_calls_need_no_round_trip() {
    let redis = RedisServer::start();
    let limiter = replica(&redis, 100).await;
    let limit = RateLimit { limit: 1_000_000, window: 3_600 * SECOND };
    let mut remaining = Vec::new();
    for _ in 0..2_000 {
        let spent = limiter.spend(subject(1), limit, 1).await;
        assert!(spent.admitted);
        remaining.push(spent.state.remaining);
    }
    assert!(remaining.is_sorted_by(|before, after| before > after), "a single replica knows exactly what remains");
    let mut connection = redis.connection().await;
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")).unwrap();
    let calls: u32 = calls.split(',').next().unwrap().parse().unwrap();
    assert!((20..=200).contains(&calls), "{calls} round trips for 2,000 calls");
    // A read is answered from the lease, and spends nothing.
    let read = limiter.spend(subject(1), limit, 0).await;
    assert_eq!((read.admitted, read.state.remaining), (true, *remaining.last().unwrap()));
}

/// Under a steady load far above the limit, over several windows.
#[tokio::test(flavor = "multi_thread")]
async fn no_span_of_one_window_holds_more_than_the_limit() {
    let limit = RateLimit { limit: 200, window: 2 * SECOND };
    let redis = RedisServer::start();
    let replicas = [replica(&redis, 20).await, replica(&redis, 20).await, replica(&redis, 20).await];
    for attempt in 0..ATTEMPTS {
        let before = fallbacks(&replicas);
        let start = Instant::now();
        let mut callers = Vec::new();
        for limiter in replicas.iter().cycle().take(6) {
            let limiter = Arc::clone(limiter);
            callers.push(tokio::spawn(async move {
                let mut admitted = Vec::new();
                while start.elapsed() < Duration::from_secs(7) {
                    let before = SystemClock.boottime();
                    let spent = limiter.spend(subject(attempt), limit, 1).await;
                    if spent.admitted {
                        admitted.push((before, SystemClock.boottime()));
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                admitted
            }));
        }
        let mut admitted = Vec::new();
        for caller in callers {
            admitted.extend(caller.await.unwrap());
        }
        if fallbacks(&replicas) > before {
            continue;
        }
        // Each call was admitted at some moment between sending and answer. Count the calls that lie in one window
        // whatever these moments were.
        let max = usize::try_from(limit.limit).unwrap();
        admitted.sort_unstable();
        for (from, (sent, _)) in admitted.iter().enumerate() {
            let within = admitted[from..].iter().filter(|(_, answered)| answered - sent < limit.window).count();
            assert!(within <= max, "{within} within one window");
        }
        // Three and a half windows admit at least this many, whatever permits the replicas hold.
        assert!(admitted.len() >= 2 * (max - 3 * 19), "{} were admitted", admitted.len());
        return;
    }
    panic!("in each of {ATTEMPTS} attempts a call fell back to the local limiter");
}

/// Calls beyond the limit cost one round trip in all, not one each.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_remembered_until_its_time() {
    let redis = RedisServer::start();
    let limiter = replica(&redis, 100).await;
    let limit = RateLimit { limit: 3, window: SECOND };
    for attempt in 0..ATTEMPTS {
        let before = limiter.fallbacks();
        let mut admitted = 0;
        let wait = loop {
            let spent = limiter.spend(subject(attempt), limit, 1).await;
            admitted += u32::from(spent.admitted);
            if let Some(wait) = spent.state.retry_after {
                break wait;
            }
        };
        // Further calls are refused from memory.
        for _ in 0..1_000 {
            let again = limiter.spend_local(subject(attempt), limit, 1).expect("answered without a round trip");
            assert!(!again.admitted && again.state.retry_after.unwrap() <= wait);
        }
        tokio::time::sleep(Duration::from_micros(u64::try_from(wait).unwrap())).await;
        let good = limiter.spend(subject(attempt), limit, 1).await.admitted;
        if limiter.fallbacks() == before {
            assert_eq!((admitted, good), (3, true));
            return;
        }
    }
    panic!("in each of {ATTEMPTS} attempts a call fell back to the local limiter");
}
