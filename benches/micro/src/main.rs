//! Times the parts of a Verify that is answered from memory, in one process and on one thread, with 100,000 keys in turn.
//! Prints medians of several passes in nanoseconds.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use keyward::{
    domain::{
        clock::{Micros, SystemClock, SystemEntropy},
        key::{Binding, Digest, KeyFacts, KeyId},
        keyspace::{Keyspace, Registry},
        master_keys::MasterKeys,
        rate_limit::RateLimit,
        secret::{self, Encoding},
        verdict::VerdictCode,
    },
    limiter::{Subject, memory::MemoryLimiter},
    proto,
    replica::{PeerMode, Replica, cached_key::CachedKey},
    service::{
        ServiceDeps, Services, bootstrap,
        verify::{CachedVerdict, Check, VerifyCaller},
    },
    store::{
        Store,
        sqlite::{Sqlite, SqliteOptions},
    },
    transport::grpc::verify::messages,
};
use prost::Message as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: usize = 100_000;
const PASSES: usize = 9;

type Failure = Box<dyn std::error::Error>;

/// The index of the key for a turn. Consecutive keys are far apart in memory, as in real use.
fn index(number: usize) -> usize {
    number * 61_967 % KEYS
}

/// Runs `step` for each key in several passes, and prints the median time of one step.
fn time(what: &str, mut step: impl FnMut(usize)) {
    let mut passes: Vec<f64> = (0..PASSES)
        .map(|_| {
            let start = Instant::now();
            for number in 0..KEYS {
                step(index(number));
            }
            #[expect(clippy::cast_precision_loss, reason = "a small number")]
            let each = start.elapsed().as_secs_f64() * 1e9 / KEYS as f64;
            each
        })
        .collect();
    passes.sort_by(f64::total_cmp);
    println!("| {what} | {:.0} |", passes[PASSES / 2]);
}

fn keyspace(rate_limit: Option<RateLimit>) -> Keyspace {
    let scopes = ["build", "submit", "update"].map(str::to_owned).to_vec();
    Keyspace { default_scopes: scopes, rate_limit, ..Keyspace::with_defaults("norrix", "nrx_", ENCODING) }
}

const ENCODING: Encoding = Encoding::Base64Url { bytes: 32 };

/// The services over an empty database, and those of their parts that are measured by themselves.
struct Parts {
    services: Services,
    replica: Arc<Replica>,
    master_keys: Arc<MasterKeys>,
}

async fn build(rate_limit: Option<RateLimit>, folder: &std::path::Path) -> Result<Parts, Failure> {
    let runtime = tokio::runtime::Handle::current();
    let url = format!("sqlite://{}", folder.join("micro.db").display());
    let sqlite = Sqlite::open(SqliteOptions::new(url, runtime.clone())).await?;
    sqlite.migrate().await?;
    let store: Arc<dyn Store> = sqlite;
    let master_keys = Arc::new(bootstrap::load_master_keys(&*store, &SystemEntropy, &[]).await?);
    let registry = Arc::new(Registry::new(vec![keyspace(rate_limit)]));
    let clock: Arc<dyn keyward::domain::clock::Clock> = Arc::new(SystemClock);
    let replica = Replica::new(
        Arc::clone(&store),
        Arc::clone(&registry),
        Arc::clone(&clock),
        1 << 30,
        PeerMode::SingleProcess,
        &runtime,
    );
    replica.lease.extend(Micros::MAX);
    let (replica, entropy) = (Arc::new(replica), Arc::new(SystemEntropy));
    let deps = ServiceDeps {
        store,
        replica: Arc::clone(&replica),
        registry,
        master_keys: Arc::clone(&master_keys),
        clock,
        entropy,
        runtime,
    };
    Ok(Parts { services: Services::with_defaults(deps), replica, master_keys })
}

fn facts((id, created_at): (KeyId, Micros), keyspace: &str, digest: Digest, scopes: &[&str]) -> KeyFacts {
    KeyFacts {
        id,
        keyspace: keyspace.to_owned(),
        digest,
        binding: Binding { organization: "acme".to_owned(), ..Binding::default() },
        name: "seeded".to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        created_at,
        expires_at: None,
        revoked: false,
        metadata: [("tier".to_owned(), "gold".to_owned()), ("region".to_owned(), "eu".to_owned())].into(),
        rate_limit: None,
        keyspaces: Vec::new(),
    }
}

/// Puts a key into the cache and returns its secret.
fn remember(parts: &Parts, keyspace: &str, prefix: &str, encoding: Encoding, scopes: &[&str]) -> String {
    let secret = encoding.generate(prefix, &parts.master_keys, &SystemEntropy);
    let digest = secret::digest(secret.expose());
    let id = parts.services.ids.key_id();
    let facts = facts(id, keyspace, digest, scopes);
    let entry = Arc::new(CachedKey::new(&facts, parts.services.registry.index(keyspace)));
    let cache = &parts.replica.cache;
    cache.fill(cache.current_seq(), std::iter::once((&digest, &entry)));
    secret.expose().to_owned()
}

fn check(secret: &str) -> Check<'_> {
    Check { secret, keyspace: "norrix", cost: Some(1), ..Check::default() }
}

fn measure(parts: &Parts, limited: &Parts) -> Result<(), Failure> {
    let Parts { services, replica, master_keys } = parts;
    let fill = |parts: &Parts| -> Vec<String> {
        (0..KEYS).map(|_| remember(parts, "norrix", "nrx_", ENCODING, &["build", "submit", "update"])).collect()
    };
    let secrets = fill(parts);
    let limited_secrets = fill(limited);
    let caller = remember(parts, "keyward", "kw_", Encoding::Alphanumeric { length: 40 }, &["verify"]);
    let digests: Vec<Digest> = secrets.iter().map(|secret| secret::digest(secret)).collect();
    let get = |digest: &Digest| replica.cache.get(digest).ok_or("a key is not in memory");
    let entries = digests.iter().map(get).collect::<Result<Vec<Arc<CachedKey>>, _>>()?;
    let asked: Vec<Vec<u8>> = secrets
        .iter()
        .map(|secret| proto::VerifyRequest {
            secret: secret.clone(),
            keyspace: "norrix".to_owned(),
            ..Default::default()
        })
        .map(|request| request.encode_to_vec())
        .collect();

    let memory = replica.cache_guard().ok_or("the lease does not hold")?;
    println!("| part | ns |\n| --- | --- |");
    time("read the wall clock", |_| {
        black_box(services.clock.wall());
    });
    time("decode the request", |at| {
        black_box(proto::VerifyRequest::decode(asked[at].as_slice()).ok());
    });
    time("the caller's verdict", |_| {
        black_box(services.auth.authorize_verify_cached(&memory, &caller).is_some());
    });
    time("check the lease", |_| {
        black_box(replica.cache_guard().is_some());
    });
    time("digest", |at| {
        black_box(secret::digest(&secrets[at]));
    });
    time("check the checksum", |at| {
        black_box(services.registry.well_formed(&secrets[at], master_keys));
    });
    time("find in the cache", |at| {
        black_box(replica.cache.get(&digests[at]));
    });
    time("find, with a valid lease", |at| {
        black_box(replica.cache_guard().and_then(|memory| memory.get(&digests[at])));
    });
    time("record the use", |at| replica.usage.record(&entries[at], 1));
    replica.usage.schedule();
    drop(replica.usage.take(usize::MAX));
    let spending = MemoryLimiter::new(Arc::new(SystemClock));
    let limit = RateLimit { limit: 1_000_000_000, window: 60_000_000 };
    // In the order of the spendings: a verdict has its key at hand.
    let mut subjects =
        (0..KEYS).map(|number| Subject::key(entries[index(number)].id)).collect::<Vec<_>>().into_iter().cycle();
    time("count against a limit", |_| {
        black_box(subjects.next().map(|subject| spending.spend(subject, limit, 1)));
    });
    time("count the verdict", |_| {
        services.metrics.verdict(Some(1), VerdictCode::Valid, Duration::from_micros(1));
    });
    services.metrics.upkeep();
    let verify = |services: &Services, secret: &str| match services
        .verify
        .try_verify_cached(VerifyCaller::Authorized(None), &check(secret))
    {
        CachedVerdict::Decided(verdict) => Some(verdict),
        _ => None,
    };
    time("the whole verdict, with a check of the lease", |at| {
        black_box(verify(services, &secrets[at]).is_some());
    });
    time("the same, with a limit", |at| {
        black_box(verify(&limited.services, &limited_secrets[at]).is_some());
    });
    let outcomes = secrets
        .iter()
        .map(|secret| verify(services, secret))
        .collect::<Option<Vec<_>>>()
        .ok_or("a verdict is missing")?;
    time("build the response", |at| {
        black_box(messages::frame(&services.verify.answer(&outcomes[at])));
    });
    time("build the message of a stream", |at| {
        black_box(messages::response(&services.verify.answer(&outcomes[at])));
    });
    let response = messages::response(&services.verify.answer(&outcomes[0]));
    time("copy a response", |_| {
        black_box(response.clone());
    });
    let mut out = Vec::with_capacity(1 << 10);
    time("encode the response", |_| {
        out.clear();
        black_box(response.encode(&mut out).ok());
    });
    Ok(())
}

fn main() -> Result<(), Failure> {
    let (one, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let parts = build(None, one.path()).await?;
        let limit = RateLimit { limit: 1_000_000_000, window: 60_000_000 };
        let limited = build(Some(limit), other.path()).await?;
        tokio::task::spawn_blocking(move || measure(&parts, &limited).map_err(|error| error.to_string())).await??;
        Ok(())
    })
}
