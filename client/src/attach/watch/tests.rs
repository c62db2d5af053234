//! Keys that are watched, confirmed, refused and closed, without a session.

use std::sync::Arc;

use super::{state::KeyState, waiter::Waiter, watches::*};
use crate::{
    attach::tag::{Tag, Tagger},
    ended::NotWatched,
    reason::Reason,
};

fn join(watches: &Arc<Watches>, tag: Tag) -> Result<Waiter, NotWatched> {
    Waiter::join(watches, tag, &KeyName::Digest([0; 32]), i64::MAX, 0)
}

fn tags(count: usize) -> Vec<Tag> {
    let tagger = Tagger::new().unwrap();
    (0..count).map(|n| tagger.tag(&n.to_string())).collect()
}

#[test]
fn watched_keys_are_bounded_and_gone_with_their_last_waiter() {
    let (watches, tags) = (Watches::with_bound(None, 2), tags(3));
    let first = join(&watches, tags[0]);
    let second = [join(&watches, tags[1]), join(&watches, tags[1])];
    assert!(first.is_ok() && second.iter().all(Result::is_ok));
    assert_eq!(join(&watches, tags[2]).err(), Some(NotWatched::TooManyKeys));
    assert_eq!((watches.keys(), watches.waiters()), (2, 3));
    drop(second);
    assert_eq!((watches.keys(), watches.waiters()), (1, 1));
    assert!(join(&watches, tags[2]).is_ok());
    let requests: usize = watches.all_shards().map(|shard| shard.requests.len()).sum();
    assert_eq!(requests, 1, "only of keys that are still watched");
}

#[test]
fn a_refused_key_is_no_longer_watched_and_a_closed_client_watches_nothing() {
    let (watches, tags) = (Watches::new(None), tags(2));
    let [refused, open] = [0, 1].map(|n| join(&watches, tags[n]).ok().unwrap());
    watches.refuse(tags[0], Reason::Revoked);
    let state = |waiter: &Waiter| waiter.state.as_ref().unwrap().borrow().clone();
    assert!(matches!(state(&refused), KeyState::Refused(Reason::Revoked)));
    let later = join(&watches, tags[0]).ok().unwrap();
    drop(refused);
    assert_eq!((watches.keys(), watches.waiters()), (2, 2), "another watch of the same key stays");
    watches.close();
    assert!(matches!((state(&later), state(&open)), (KeyState::Closed, KeyState::Closed)));
    assert_eq!(join(&watches, tags[0]).err(), Some(NotWatched::NotAttached));
    drop((later, open));
    assert_eq!((watches.keys(), watches.waiters()), (0, 0));
}

#[test]
fn watches_are_covered_in_parts() {
    let (watches, tags) = (Watches::new(None), tags(100));
    let waiters: Vec<_> = tags.iter().map(|tag| join(&watches, *tag).ok().unwrap()).collect();
    assert_eq!((watches.take_requests(30).len(), watches.take_requests(100).len()), (30, 70));
    assert!(watches.take_requests(100).is_empty());
    watches.uncover_all(0);
    drop(waiters);
    watches.request(tags[0]);
    assert!(watches.take_requests(100).is_empty(), "none is watched");
}
