//! The real cache code under the shuttle scheduler: in every order of steps, the cache never returns a key that an applied
//! change has made stale.
//!
//! `cargo test --features shuttle --test shuttle_cache`

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use keyward::{
    domain::{
        key::{Binding, Digest, KeyFacts, KeyId},
        verdict::KeyView as _,
    },
    replica::{cache::KeyCache, cached_key::CachedKey, fault_injection},
};
use shuttle::{sync::Mutex, thread};
use uuid::Uuid;

/// Number of schedules to try, once at random, and once by the PCT algorithm.
const SCHEDULES: usize = 2_500;

const KEY: Digest = Digest([7; 32]);
const OTHERS: [Digest; 3] = [Digest([1; 32]), Digest([2; 32]), Digest([3; 32])];

/// One key in a database, and the cache of one replica.
struct World {
    revoked: Mutex<bool>,
    cache: KeyCache,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self { revoked: Mutex::new(false), cache: KeyCache::new(1 << 20) })
    }

    /// A look-up, with the same steps as in `replica/lookup.rs`.
    fn look_up(&self) {
        let seq = self.cache.current_seq();
        let entry = Arc::new(entry(*self.revoked.lock().unwrap()));
        self.cache.fill(seq, std::iter::once((&KEY, &entry)));
    }

    fn commit(&self) {
        *self.revoked.lock().unwrap() = true;
    }

    /// Call this after the change was applied.
    fn assert_not_stale(&self) {
        let cached = self.cache.get(&KEY);
        assert!(cached.is_none_or(|entry| entry.revoked()), "the cache holds a stale key");
    }
}

fn entry(revoked: bool) -> CachedKey {
    let facts = KeyFacts {
        id: KeyId(Uuid::nil()),
        keyspace: "default".into(),
        digest: KEY,
        binding: Binding::default(),
        name: String::new(),
        scopes: Vec::new(),
        created_at: 1,
        expires_at: None,
        revoked,
        metadata: BTreeMap::new(),
        rate_limit: None,
        keyspaces: Vec::new(),
    };
    CachedKey::new(&facts, Some(0))
}

/// Two look-ups race the commit and the application of the change; a third one follows.
fn race(apply: fn(&Arc<World>)) {
    let world = World::new();
    let start = |work: fn(&World)| {
        let world = Arc::clone(&world);
        thread::spawn(move || work(&world))
    };
    let racing = [start(World::look_up), start(World::look_up)];
    world.commit();
    apply(&world);
    world.assert_not_stale();
    let late = start(World::look_up);
    world.assert_not_stale();
    for thread in racing.into_iter().chain([late]) {
        thread.join().unwrap();
    }
    world.assert_not_stale();
}

fn try_schedules(apply: fn(&Arc<World>)) {
    shuttle::check_random(move || race(apply), SCHEDULES);
    shuttle::check_pct(move || race(apply), SCHEDULES, 3);
}

fn one_change(world: &Arc<World>) {
    world.cache.invalidate(&KEY);
}

/// More changes than the cache keeps by digest.
fn a_change_and_many_more(world: &Arc<World>) {
    world.cache.invalidate(&KEY);
    for other in &OTHERS {
        world.cache.invalidate(other);
    }
}

fn a_clear(world: &Arc<World>) {
    world.cache.clear();
}

/// The replica's own Revoke and its follower both apply the change.
fn the_change_twice_at_once(world: &Arc<World>) {
    let follower = Arc::clone(world);
    let follower = thread::spawn(move || follower.cache.invalidate(&KEY));
    world.cache.invalidate(&KEY);
    world.assert_not_stale();
    follower.join().unwrap();
}

#[test]
fn the_cache_holds_no_stale_key_after_a_change() {
    try_schedules(one_change);
    try_schedules(a_change_and_many_more);
    try_schedules(the_change_twice_at_once);
}

#[test]
fn the_cache_holds_no_stale_key_after_a_clear() {
    try_schedules(a_clear);
}

#[test]
fn without_the_fence_the_cache_holds_a_stale_key() {
    for apply in [one_change as fn(&Arc<World>), a_change_and_many_more, a_clear] {
        let _disabled = fault_injection::disable("fill_fence");
        let checked = catch_unwind(AssertUnwindSafe(|| try_schedules(apply)));
        assert!(checked.is_err(), "no schedule shows that the fence is needed");
    }
}
