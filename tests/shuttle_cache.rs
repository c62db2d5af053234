//! The cache's own code on a controlled scheduler: whatever the order of steps, memory never gives back what a change
//! that was applied has made old.
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

/// Orders that are tried at random, and as many with few switches at the worst places.
const ORDERS: usize = 2_500;

const KEY: Digest = Digest([7; 32]);
const OTHERS: [Digest; 3] = [Digest([1; 32]), Digest([2; 32]), Digest([3; 32])];

/// One key in a database, and the memory of one replica.
struct World {
    revoked: Mutex<bool>,
    cache: KeyCache,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self { revoked: Mutex::new(false), cache: KeyCache::new(1 << 20) })
    }

    /// A look-up as the gatherer makes it.
    fn look_up(&self) {
        let mark = self.cache.current_seq();
        let entry = Arc::new(entry(*self.revoked.lock().unwrap()));
        self.cache.fill(mark, std::iter::once((&KEY, &entry)));
    }

    fn commit(&self) {
        *self.revoked.lock().unwrap() = true;
    }

    /// To be called once the change was applied.
    fn assert_not_old(&self) {
        let held = self.cache.get(&KEY);
        assert!(held.is_none_or(|entry| entry.revoked()), "memory holds what the change made old");
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

/// Two look-ups race the change as it is committed and applied, and a third one follows.
fn race(apply: fn(&Arc<World>)) {
    let world = World::new();
    let start = |work: fn(&World)| {
        let world = Arc::clone(&world);
        thread::spawn(move || work(&world))
    };
    let looking = [start(World::look_up), start(World::look_up)];
    world.commit();
    apply(&world);
    world.assert_not_old();
    let late = start(World::look_up);
    world.assert_not_old();
    for thread in looking.into_iter().chain([late]) {
        thread.join().unwrap();
    }
    world.assert_not_old();
}

fn every_order(apply: fn(&Arc<World>)) {
    shuttle::check_random(move || race(apply), ORDERS);
    shuttle::check_pct(move || race(apply), ORDERS, 3);
}

fn one_change(world: &Arc<World>) {
    world.cache.invalidate(&KEY);
}

/// More than the cache remembers by digest.
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
    world.assert_not_old();
    follower.join().unwrap();
}

#[test]
fn memory_never_holds_what_an_applied_change_made_old() {
    every_order(one_change);
    every_order(a_change_and_many_more);
    every_order(the_change_twice_at_once);
}

#[test]
fn memory_never_holds_what_a_clear_made_old() {
    every_order(a_clear);
}

#[test]
fn without_its_fence_it_does() {
    for apply in [one_change as fn(&Arc<World>), a_change_and_many_more, a_clear] {
        let _back = fault_injection::disable("fill_fence");
        let checked = catch_unwind(AssertUnwindSafe(|| every_order(apply)));
        assert!(checked.is_err(), "no order shows that the fence is needed");
    }
}
