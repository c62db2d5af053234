//! Three processes on one database and one Redis: how many calls they admit together, also while Redis is unreachable,
//! paused, or has lost its data.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use keyward::proto::{Code, CreateRequest};

use crate::{
    database::fresh_database,
    proxy::Proxy,
    redis_server::RedisServer,
    support::{
        Reply, Server, Setup,
        grpc::{Client, check, create, made, own_limit, verify},
        reply,
        reply::now_ms,
        server::ROOT,
    },
};

/// Maximum number of attempts, each with another key, until no call was counted locally. On a busy machine calls may miss
/// their timeout.
const ATTEMPTS: u32 = 40;

/// A timeout of calls to Redis that even a busy machine meets.
pub(crate) const LONG_TIMEOUT: &str = "1s";
/// The default of the setting: a variable that is empty is unset.
const DEFAULT_TIMEOUT: &str = "";
/// A timeout for tests with outages, which calls wait for until the circuit breaker opens.
const OUTAGE_TIMEOUT: &str = "250ms";

/// Replicas that reach Redis through a proxy.
struct Replicas {
    redis: RedisServer,
    proxy: Proxy,
    servers: Vec<Server>,
    clients: Vec<Client>,
}

impl Replicas {
    async fn start(count: usize, call_timeout: &str, setup: impl Fn() -> Setup) -> Self {
        let redis = RedisServer::start();
        let proxy = Proxy::start(address(&redis)).await;
        let replicas = Self::over(redis, proxy, count, call_timeout, setup).await;
        replicas.shared(true).await;
        replicas
    }

    async fn over(
        redis: RedisServer,
        proxy: Proxy,
        count: usize,
        call_timeout: &str,
        setup: impl Fn() -> Setup,
    ) -> Self {
        let database = fresh_database().await;
        let store = format!("redis://{}", proxy.address());
        let (mut servers, mut clients) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let setup = setup().database(&database).env("KEYWARD_RATE_LIMIT_STORE", &store);
            let server = setup.env("KEYWARD_RATE_LIMIT_TIMEOUT", call_timeout).start();
            clients.push(server.client().await);
            servers.push(server);
        }
        Self { redis, proxy, servers, clients }
    }

    /// A new key that each replica has cached.
    async fn key(&mut self, limit: u32) -> String {
        let request = CreateRequest { rate_limit: Some(own_limit(limit, 3_600)), ..CreateRequest::default() };
        let secret = made(create(&mut self.clients[0], ROOT, request).await).secret;
        for client in &mut self.clients {
            let mut free = check(&secret);
            free.cost = Some(0);
            verify(client, free).await;
        }
        secret
    }

    async fn metric(&self, replica: usize, name: &str) -> u64 {
        let text = self.servers[replica].rest("GET", "/metrics").send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect("the metric");
        line.parse().unwrap()
    }

    async fn fallbacks(&self) -> u64 {
        let mut sum = 0;
        for replica in 0..self.servers.len() {
            sum += self.metric(replica, "keyward_rate_limit_fallbacks_total").await;
        }
        sum
    }

    /// Waits until every replica reports that limits are shared, or that they are not.
    async fn shared(&self, shared: bool) {
        let start = Instant::now();
        for replica in 0..self.servers.len() {
            while self.metric(replica, "keyward_rate_limit_shared").await != u64::from(shared) {
                assert!(start.elapsed() < Duration::from_secs(20), "replica {replica} is not shared = {shared}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Calls every replica concurrently. Returns how many calls were admitted.
    async fn burst(&self, secret: &str, callers: usize, calls: u32) -> u32 {
        let admitted = Arc::new(AtomicU32::new(0));
        let mut tasks = Vec::new();
        for client in &self.clients {
            for _ in 0..callers {
                let (mut client, secret, admitted) = (client.clone(), secret.to_owned(), Arc::clone(&admitted));
                tasks.push(tokio::spawn(async move {
                    for _ in 0..calls {
                        match verify(&mut client, check(&secret)).await.code() {
                            Code::Valid => _ = admitted.fetch_add(1, Ordering::Relaxed),
                            code => assert_eq!(code, Code::RateLimited),
                        }
                    }
                }));
            }
        }
        for task in tasks {
            task.await.unwrap();
        }
        admitted.load(Ordering::Relaxed)
    }

    /// Asserts that the replicas together admit the limit of a new key, less at most `held` permits. Tries until at most
    /// `max_local` calls were counted locally.
    async fn keep_one_limit(&mut self, limit: u32, held: u32, max_local: u32) {
        for _ in 0..ATTEMPTS {
            let secret = self.key(limit).await;
            let before = self.fallbacks().await;
            let admitted = self.burst(&secret, 3, limit / 6).await;
            let local = u32::try_from(self.fallbacks().await - before).unwrap();
            // A call that timed out was counted locally. The server may have counted it, too, and the permits that it
            // would have brought are lost.
            let lost = local * (1 + held.div_ceil(u32::try_from(self.servers.len()).unwrap()));
            let expected = limit.saturating_sub(held + lost)..=limit + local;
            assert!(expected.contains(&admitted), "{admitted} of {limit}, with {local} calls counted locally");
            if local <= max_local {
                return;
            }
            // Give the machine time to become less busy.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("in each of {ATTEMPTS} attempts more than {max_local} calls were counted locally");
    }

    /// Asserts that each replica admits the whole limit of a new key by itself.
    async fn keep_a_limit_each(&mut self, limit: u32) {
        let secret = self.key(limit).await;
        let replicas = u32::try_from(self.servers.len()).unwrap();
        assert_eq!(self.burst(&secret, 2, limit).await, replicas * limit);
    }
}

fn address(redis: &RedisServer) -> SocketAddr {
    redis.url().strip_prefix("redis://").unwrap().parse().unwrap()
}

/// A setup with permit leases of this size.
fn batch(permits: u32) -> impl Fn() -> Setup {
    move || Setup::new().config(&format!("[rate_limit]\nbatch = {permits}\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_under_load_admit_exactly_the_limit() {
    let mut replicas = Replicas::start(3, LONG_TIMEOUT, Setup::new).await;
    // A small limit exactly; a large one up to the few calls that may have timed out.
    replicas.keep_one_limit(60, 0, 0).await;
    replicas.keep_one_limit(900, 0, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_with_leases_admit_no_more_than_the_limit_and_hardly_fewer() {
    let mut replicas = Replicas::start(3, LONG_TIMEOUT, batch(20)).await;
    replicas.keep_one_limit(600, 3 * 19, 0).await;
}

/// Threads that keep every core busy until this is dropped.
struct BusyLoops(Arc<AtomicBool>);

impl BusyLoops {
    fn start(count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..count {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(stop)
    }
}

impl Drop for BusyLoops {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// With the default timeout, on a machine without a free core: a call that Redis answers late is not counted twice.
#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_beside_busy_loops_admit_exactly_the_limit() {
    const LIMIT: u32 = 500;
    let mut replicas = Replicas::start(3, DEFAULT_TIMEOUT, Setup::new).await;
    let _busy = BusyLoops::start(2);
    for _ in 0..ATTEMPTS {
        replicas.shared(true).await;
        let secret = replicas.key(LIMIT).await;
        let before = replicas.fallbacks().await;
        let mut admitted = replicas.burst(&secret, 3, 100).await;
        // A call that timed out was refused. What Redis counted for it comes back.
        let start = Instant::now();
        while admitted < LIMIT && start.elapsed() < Duration::from_secs(10) {
            admitted += replicas.burst(&secret, 1, 1).await;
        }
        admitted += replicas.burst(&secret, 1, 10).await;
        if replicas.fallbacks().await > before {
            // Nothing was answered for long enough to look like an outage.
            continue;
        }
        assert_eq!(admitted, LIMIT);
        return;
    }
    panic!("in each of {ATTEMPTS} attempts Redis seemed to be unavailable");
}

/// Calls continue through every kind of outage. None is refused or delayed because of it.
async fn through_every_outage(setup: impl Fn() -> Setup, held: u32) {
    let mut replicas = Replicas::start(3, OUTAGE_TIMEOUT, setup).await;
    let secret = replicas.key(1_000_000_000).await;
    let (stop, slowest) = (Arc::new(AtomicBool::new(false)), Arc::new(std::sync::Mutex::new(Duration::ZERO)));
    let mut load = Vec::new();
    for client in replicas.clients.clone() {
        let (mut client, secret) = (client, secret.clone());
        let (stop, slowest) = (Arc::clone(&stop), Arc::clone(&slowest));
        load.push(tokio::spawn(async move {
            let mut calls = 0;
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                assert_eq!(verify(&mut client, check(&secret)).await.code(), Code::Valid);
                let took = start.elapsed();
                {
                    let mut slowest = slowest.lock().unwrap();
                    *slowest = took.max(*slowest);
                }
                calls += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            calls
        }));
    }
    replicas.keep_one_limit(60, held, 6).await;

    replicas.proxy.down(true);
    replicas.shared(false).await;
    replicas.keep_a_limit_each(5).await;
    replicas.proxy.down(false);
    replicas.shared(true).await;
    replicas.keep_one_limit(60, held, 6).await;

    replicas.redis.signal("STOP");
    replicas.shared(false).await;
    replicas.keep_a_limit_each(5).await;
    replicas.redis.signal("CONT");
    replicas.shared(true).await;
    replicas.keep_one_limit(60, held, 6).await;

    replicas.redis.restart();
    replicas.shared(true).await;
    replicas.keep_one_limit(60, held, 6).await;

    stop.store(true, Ordering::Relaxed);
    for load in load {
        assert!(load.await.unwrap() > 100, "calls continued");
    }
    let slowest = *slowest.lock().unwrap();
    assert!(slowest < Duration::from_secs(1), "a call took {slowest:?}");
    for server in &replicas.servers {
        let log = server.log();
        let lines = |text: &str| log.matches(text).count();
        // One line for each outage, whatever the number of calls.
        assert!((2..=12).contains(&lines("rate limit store unavailable")), "{log}");
        assert!((3..=13).contains(&lines("connected, limits are shared")), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_limit_by_themselves_during_outages_and_share_limits_afterwards() {
    through_every_outage(Setup::new, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_with_leases_limit_by_themselves_during_outages_and_share_limits_afterwards() {
    through_every_outage(batch(20), 3 * 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_unreachable_at_startup_is_connected_later() {
    let redis = RedisServer::start();
    let proxy = Proxy::start(address(&redis)).await;
    proxy.down(true);
    let mut replicas = Replicas::over(redis, proxy, 2, OUTAGE_TIMEOUT, Setup::new).await;
    for server in &replicas.servers {
        server.logged("rate limit store unreachable, retrying").await;
    }
    replicas.shared(false).await;
    replicas.keep_a_limit_each(5).await;
    replicas.proxy.down(false);
    replicas.shared(true).await;
    replicas.keep_one_limit(60, 0, 6).await;
}

async fn create_from(server: &Server, client: &str) -> Reply {
    reply(server.rest("POST", "/api/v1/keys").header("x-forwarded-for", client)).await
}

/// A client that is sent to another replica with each request has one limit all the same.
#[tokio::test(flavor = "multi_thread")]
async fn creations_of_one_address_are_counted_by_all_replicas_together() {
    let setup = || Setup::new().ready("noro").and("[http]\ntrusted_proxies = [\"127.0.0.1/32\"]");
    let replicas = Replicas::start(2, LONG_TIMEOUT, setup).await;
    for attempt in 0..ATTEMPTS {
        let client = format!("192.0.2.{attempt}");
        let before = replicas.fallbacks().await;
        let mut made = 0;
        let mut refusals = Vec::new();
        for call in 0..24 {
            let answer = create_from(&replicas.servers[call % 2], &client).await;
            if answer.status == 201 {
                made += 1;
            } else {
                answer.refused(429, "rate_limited");
                refusals.push(answer);
            }
        }
        if replicas.fallbacks().await > before {
            continue;
        }
        assert_eq!((made, refusals.len()), (10, 14));
        for refusal in refusals {
            assert_eq!(refusal.number("x-ratelimit-limit"), 10);
            assert_eq!(refusal.number("x-ratelimit-remaining"), 0);
            let (reset, wait) = (refusal.number("x-ratelimit-reset"), refusal.number("retry-after"));
            assert!((1..=65).contains(&wait) && reset > now_ms() && reset <= now_ms() + wait * 1_000, "{refusal:?}");
        }
        let another = create_from(&replicas.servers[0], "198.51.100.7").await;
        assert!(another.status == 201 || replicas.fallbacks().await > before, "{another:?}");
        return;
    }
    panic!("in each of {ATTEMPTS} attempts a call was counted locally");
}
