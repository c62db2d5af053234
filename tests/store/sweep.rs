//! Cases on what background jobs write, through the services: expiry events, rate limit events and retention.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use keyward::{
    domain::{
        clock::{Clock, Micros, SECOND, SystemClock, SystemEntropy},
        event::{EventId, EventType},
        key::{KeyId, KeyRecord},
        keyspace::{Keyspace, Registry},
        rate_limit::RateLimit,
    },
    replica::{PeerMode, Replica},
    service::{ServiceDeps, Services, bootstrap},
    store::{Store, events::EventQuery},
};
use tokio::{runtime::Handle, time::Instant};

use crate::{
    change::revocation,
    events::{events, key_of},
    fixture::{Fixture, key_with, write},
    sessions::session,
};

const HOUR: Micros = 3_600 * SECOND;
const DAY: Micros = 24 * HOUR;

/// A clock that stands still until it is set.
struct FixedClock(AtomicI64);

impl FixedClock {
    fn at(time: Micros) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(time)))
    }

    fn set(&self, time: Micros) {
        self.0.store(time, Ordering::Relaxed);
    }
}

impl Clock for FixedClock {
    fn wall(&self) -> Micros {
        self.0.load(Ordering::Relaxed)
    }

    fn boottime(&self) -> Micros {
        self.wall()
    }
}

/// The services of one replica over a store, and its record of rate limit refusals.
struct OneReplica {
    services: Services,
    replica: Arc<Replica>,
}

async fn replica(store: &Arc<dyn Store>, clock: &Arc<FixedClock>) -> OneReplica {
    let (runtime, clock) = (Handle::current(), Arc::clone(clock) as Arc<dyn Clock>);
    let store = Arc::clone(store);
    let master_keys = Arc::new(bootstrap::load_master_keys(&*store, &SystemEntropy, &[]).await.unwrap());
    let registry = Arc::new(Registry::new(vec![Keyspace::default_keyspace()]));
    let replica = Replica::new(
        Arc::clone(&store),
        Arc::clone(&registry),
        Arc::clone(&clock),
        1 << 20,
        PeerMode::SingleProcess,
        &runtime,
    );
    let (replica, entropy) = (Arc::new(replica), Arc::new(SystemEntropy));
    let deps = ServiceDeps { store, replica: Arc::clone(&replica), registry, master_keys, clock, entropy, runtime };
    OneReplica { services: Services::with_defaults(deps), replica }
}

/// Emits expiry events as a sweep does, on every replica at once.
async fn sweep(replicas: &[OneReplica]) {
    let each = replicas.iter().map(|replica| async move {
        let deadline = Instant::now() + Duration::from_secs(60);
        replica.services.jobs.emit_expiry_events(EventType::KeyExpired, 0, deadline).await.unwrap();
        for before in [DAY, 7 * DAY] {
            replica.services.jobs.emit_expiry_events(EventType::KeyExpiring, before, deadline).await.unwrap();
        }
    });
    join_all(each).await;
}

/// The events of each key except its creation and its revocation, in order.
async fn sweep_events(store: &Arc<dyn Store>) -> BTreeMap<KeyId, Vec<(EventType, i64)>> {
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for event in events(store).await.into_iter().rev() {
        if let Some(once) = event.once {
            found.entry(key_of(&event).id).or_default().push((event.kind, once));
        }
    }
    found
}

fn key_living(created_at: Micros, length: Option<Micros>) -> KeyRecord {
    key_with(|key| (key.created_at, key.expires_at) = (created_at, length.map(|length| created_at + length)))
}

const IN_A_WEEK: (EventType, i64) = (EventType::KeyExpiring, 7 * 86_400);
const TOMORROW: (EventType, i64) = (EventType::KeyExpiring, 86_400);
const EXPIRED: (EventType, i64) = (EventType::KeyExpired, 0);

pub async fn each_expiry_has_one_event_with_any_number_of_replicas(f: Fixture) {
    let start = SystemClock.wall();
    let clock = FixedClock::at(start);
    let first = [replica(&f.store, &clock).await, replica(&f.store, &clock).await];
    sweep(&first).await;
    let ids = [
        key_living(start, Some(30 * DAY)),
        key_living(start, Some(3 * DAY)),
        key_living(start, Some(HOUR)),
        key_living(start, None),
    ];
    let [long, middle, short, eternal] = ids.each_ref().map(|key| key.id);
    let revoked = key_living(start, Some(30 * DAY));
    write(&f.store, ids.into_iter().chain([revoked.clone()])).await;
    f.store.revoke_key(revoked.id, revocation("")).await.unwrap();

    // Sweep every six hours. The replicas are replaced each day, as after a restart.
    let mut replicas = first;
    for quarter in 1..=31 * 4 {
        clock.set(start + quarter * 6 * HOUR);
        if quarter % 4 == 0 {
            replicas = [replica(&f.store, &clock).await, replica(&f.store, &clock).await];
        }
        sweep(&replicas).await;
    }
    let found = sweep_events(&f.store).await;
    assert_eq!(found.get(&long), Some(&vec![IN_A_WEEK, TOMORROW, EXPIRED]));
    assert_eq!(found.get(&middle), Some(&vec![TOMORROW, EXPIRED]));
    assert_eq!(found.get(&short), Some(&vec![EXPIRED]));
    assert_eq!((found.get(&eternal), found.get(&revoked.id)), (None, None));
    let query = EventQuery { key: Some(long), limit: 10, ..EventQuery::default() };
    let at: Vec<_> = f.store.list_events(query).await.unwrap().rows.iter().map(|event| event.id.at()).collect();
    let expected = [30 * DAY, 29 * DAY, 23 * DAY].map(|after| start + after);
    assert!(at.iter().zip(expected).all(|(at, due)| (at - due).abs() < SECOND), "{at:?} {expected:?}");
    // The event holds the key as the webhook delivers it.
    let claim = keyward::store::events::Claim { now: start + 40 * DAY, until: 0, limit: 100, busy_hosts: vec![] };
    let deliveries = f.store.claim_deliveries(claim).await.unwrap();
    assert_eq!(deliveries.iter().filter(|one| one.event.once.is_some()).count(), 6);
}

/// Keys that expired before the first sweep, and thresholds that had passed when a sweep came late.
pub async fn keys_that_expired_before_the_first_sweep_have_no_event(f: Fixture) {
    let start = SystemClock.wall();
    let before = key_living(start - 10 * DAY, Some(5 * DAY));
    let after = key_living(start - 10 * DAY, Some(20 * DAY));
    write(&f.store, [before, after.clone()]).await;
    let clock = FixedClock::at(start);
    let replicas = [replica(&f.store, &clock).await];
    sweep(&replicas).await;
    assert_eq!(sweep_events(&f.store).await, BTreeMap::new());
    // No sweep ran for a long time: the key has expired, so it has no event that it is about to.
    clock.set(start + 12 * DAY);
    sweep(&replicas).await;
    assert_eq!(sweep_events(&f.store).await, [(after.id, vec![EXPIRED])].into());
}

pub async fn more_expiries_than_one_batch_all_have_events(f: Fixture) {
    const KEYS: usize = 1_203;
    let start = SystemClock.wall();
    let clock = FixedClock::at(start);
    let replicas = [replica(&f.store, &clock).await, replica(&f.store, &clock).await];
    sweep(&replicas).await;
    // Most of them expire at the same time.
    let keys =
        (0..KEYS).map(|n| key_living(start, Some(if n < 1_000 { HOUR } else { HOUR + Micros::try_from(n).unwrap() })));
    let made: Vec<_> = keys.collect();
    for chunk in made.chunks(50) {
        join_all(chunk.iter().map(|key| f.store.create_key(key.clone()))).await.into_iter().for_each(Result::unwrap);
    }
    clock.set(start + 2 * HOUR);
    sweep(&replicas).await;
    let found = sweep_events(&f.store).await;
    assert_eq!(found.len(), KEYS);
    assert!(found.values().all(|kinds| *kinds == [EXPIRED]));
}

/// A key becomes visible after a sweep has passed a key that expires later.
pub async fn a_key_that_becomes_visible_late_has_its_event(f: Fixture) {
    let start = SystemClock.wall();
    let clock = FixedClock::at(start);
    let replicas = [replica(&f.store, &clock).await];
    sweep(&replicas).await;
    let late = key_living(start, Some(10 * SECOND));
    clock.set(start + 30 * SECOND);
    sweep(&replicas).await;
    write(&f.store, [late.clone()]).await;
    clock.set(start + 45 * SECOND);
    sweep(&replicas).await;
    assert_eq!(sweep_events(&f.store).await, [(late.id, vec![EXPIRED])].into());
}

pub async fn rate_limit_refusals_have_one_event_for_each_window(f: Fixture) {
    let made = key_living(SystemClock.wall(), None);
    write(&f.store, [made.clone()]).await;
    let limit = RateLimit { limit: 1, window: 100 * SECOND };
    let start = SystemClock.wall() / limit.window * limit.window;
    let clock = FixedClock::at(start);
    let replicas = [replica(&f.store, &clock).await, replica(&f.store, &clock).await];
    for second in [0, 1, 50, 99, 100, 150, 350] {
        clock.set(start + second * SECOND);
        for replica in &replicas {
            replica.replica.rate_limit_events.record(made.id, limit, clock.wall());
        }
        join_all(replicas.iter().map(|replica| replica.services.jobs.flush_rate_limit_events())).await;
    }
    let windows = [0, 100, 300].map(|second| (EventType::KeyRateLimited, start + second * SECOND));
    assert_eq!(sweep_events(&f.store).await, [(made.id, windows.to_vec())].into());
}

pub async fn old_events_are_deleted_and_one_replica_sweeps(f: Fixture) {
    // Ids have a resolution of one millisecond.
    let start = SystemClock.wall() / 1_000 * 1_000;
    let clock = FixedClock::at(start);
    let quiet = || key_with(|key| key.webhook_url = String::new());
    let waiting = key_with(|_| {});
    write(&f.store, (0..700).map(|_| quiet()).chain([waiting.clone()])).await;
    let replicas = [replica(&f.store, &clock).await, replica(&f.store, &clock).await];
    let sweep = async || drop(join_all(replicas.iter().map(|replica| replica.services.jobs.sweep_events())).await);
    sweep().await;
    assert_eq!(events(&f.store).await.len(), 701);
    clock.set(start + 91 * DAY);
    // Either replica may sweep. Ids of the same millisecond are in no order.
    let fresh = EventId::lowest(start + 91 * DAY);
    sweep().await;
    let left: Vec<_> = events(&f.store).await.into_iter().map(|event| (event.kind, key_of(&event).id)).collect();
    let expired = left.iter().filter(|(kind, _)| *kind == EventType::KeyExpired).count();
    assert!(left.contains(&(EventType::KeyCreated, waiting.id)), "an event with a pending delivery stays");
    assert_eq!((left.len(), expired), (702, 701), "the other remaining events are new");
    assert!(events(&f.store).await.iter().filter(|event| event.id < fresh).count() == 1);
}

/// Nobody signs in any more: rows of sessions that ended do not stay.
pub async fn a_sweep_deletes_ended_sessions(f: Fixture) {
    let start = SystemClock.wall();
    let clock = FixedClock::at(start);
    let replica = replica(&f.store, &clock).await;
    let (ended, live) = (session("root", start - 2 * HOUR), session("root", start));
    for session in [&ended, &live] {
        f.store.create_session(session.clone()).await.unwrap();
    }
    replica.services.jobs.sweep_events().await;
    assert_eq!(f.store.find_session(ended.id).await.unwrap(), None);
    assert_eq!(f.store.find_session(live.id).await.unwrap(), Some(live.clone()));
    clock.set(start + 3 * HOUR);
    replica.services.jobs.sweep_events().await;
    assert_eq!(f.store.find_session(live.id).await.unwrap(), None);
}
