//! The watched keys of a client.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};
use zeroize::Zeroizing;

use super::state::KeyState;
use crate::{
    attach::{
        memory::{Digest, Memory},
        tag::Tag,
    },
    ended::NotWatched,
    key_facts::KeyFacts,
    reason::Reason,
};

/// Keys that are watched at once. The number of futures that wait for one key is not bounded: the program holds each.
const MAX_WATCHED: usize = 65_536;
/// Locks that the watched keys are spread over.
const SHARDS: usize = 16;

/// What names a key in a look-up.
#[derive(Clone)]
pub(in crate::attach) enum KeyName {
    Secret(Arc<Zeroizing<String>>),
    Digest(Digest),
}

/// One watched key.
pub(in crate::attach) struct Watch {
    pub(in crate::attach) tag: Tag,
    name: KeyName,
    /// Set once it is known.
    digest: OnceLock<Digest>,
    state: watch::Sender<KeyState>,
}

impl Watch {
    /// What names the key in a look-up: its digest if that is known, so that the secret is not sent again.
    pub(in crate::attach) fn name(&self) -> KeyName {
        self.digest.get().map_or_else(|| self.name.clone(), |digest| KeyName::Digest(*digest))
    }
}

/// Facts of a watched key that the session's replica has confirmed.
pub(in crate::attach) struct Confirmed {
    pub(in crate::attach) facts: Arc<KeyFacts>,
    pub(in crate::attach) digest: Digest,
    pub(in crate::attach) expires: i64,
    /// Since when the replica sends the key's changes.
    pub(in crate::attach) at: i64,
}

/// A watch, and where its state changes.
pub(super) type Joined = (Arc<Watch>, watch::Receiver<KeyState>);

/// The watched keys of a client.
pub(in crate::attach) struct Watches {
    shards: [Mutex<Shard>; SHARDS],
    /// How many keys are watched.
    keys: AtomicUsize,
    max_keys: usize,
    /// Wakes the session's task: a watch has to be covered.
    request_added: Notify,
    /// How long work may go on while no live lease covers its key, in microseconds.
    pub(super) grace: i64,
}

#[derive(Default)]
pub(super) struct Shard {
    watches: HashMap<Tag, Arc<Watch>>,
    /// Those that the session has to cover.
    pub(super) requests: HashSet<Tag>,
    /// The client was detached or dropped.
    closed: bool,
}

impl Watches {
    /// No keys are watched. Work may go on for `grace` without a lease; none: without a bound.
    pub(in crate::attach) fn new(grace: Option<Duration>) -> Arc<Self> {
        Self::with_bound(grace, MAX_WATCHED)
    }

    pub(super) fn with_bound(grace: Option<Duration>, max_keys: usize) -> Arc<Self> {
        let grace = grace.and_then(|grace| i64::try_from(grace.as_micros()).ok());
        Arc::new(Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            keys: AtomicUsize::new(0),
            max_keys,
            request_added: Notify::new(),
            grace: grace.unwrap_or(i64::MAX),
        })
    }

    fn shard(&self, tag: Tag) -> MutexGuard<'_, Shard> {
        self.shards[tag.shard(SHARDS)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all_shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many keys are watched.
    pub(in crate::attach) fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// How many futures wait for the ends of these keys.
    pub(in crate::attach) fn waiters(&self) -> usize {
        let of = |shard: &Shard| shard.watches.values().map(|watch| watch.state.receiver_count()).sum::<usize>();
        self.all_shards().map(|shard| of(&shard)).sum()
    }

    /// Watches a key. All futures that wait for one key share its watch. [`Self::leave`] ends it.
    ///
    /// # Errors
    ///
    /// The client is closed, or already watches the maximum number of keys.
    pub(super) fn join(&self, tag: Tag, name: &KeyName, expires: i64, now: i64) -> Result<Joined, NotWatched> {
        let mut shard = self.shard(tag);
        if shard.closed {
            return Err(NotWatched::NotAttached);
        }
        let shard = &mut *shard;
        let watch = match shard.watches.entry(tag) {
            Entry::Occupied(watch) => watch.into_mut(),
            Entry::Vacant(room) => {
                if self.keys.fetch_add(1, Ordering::Relaxed) >= self.max_keys {
                    self.keys.fetch_sub(1, Ordering::Relaxed);
                    return Err(NotWatched::TooManyKeys);
                }
                let state = watch::Sender::new(KeyState::Uncovered { since: now, expires });
                shard.requests.insert(tag);
                self.request_added.notify_one();
                let digest = OnceLock::new();
                room.insert(Arc::new(Watch { tag, name: name.clone(), digest, state }))
            }
        };
        Ok((Arc::clone(watch), watch.state.subscribe()))
    }

    /// Removes a watch unless something still waits for its end. Drop the receiver before.
    pub(super) fn leave(&self, watch: &Arc<Watch>) {
        let mut shard = self.shard(watch.tag);
        let own = shard.watches.get(&watch.tag).is_some_and(|current| Arc::ptr_eq(current, watch));
        if own && watch.state.receiver_count() == 0 {
            self.remove(&mut shard, watch.tag);
        }
    }

    fn remove(&self, shard: &mut Shard, tag: Tag) -> Option<Arc<Watch>> {
        shard.requests.remove(&tag);
        let watch = shard.watches.remove(&tag)?;
        self.keys.fetch_sub(1, Ordering::Relaxed);
        Some(watch)
    }

    /// Waits until a watch may have to be covered.
    pub(in crate::attach) async fn requested(&self) {
        self.request_added.notified().await;
    }

    /// Takes watches that the session has to cover, at most `max`. If more are left, [`Self::requested`] returns
    /// again.
    pub(in crate::attach) fn take_requests(&self, max: usize) -> Vec<Arc<Watch>> {
        let mut taken = Vec::new();
        let mut more = false;
        for mut shard in self.all_shards() {
            let Shard { watches, requests, .. } = &mut *shard;
            let tags: Vec<_> = requests.iter().take(max - taken.len()).copied().collect();
            for tag in tags {
                requests.remove(&tag);
                taken.extend(watches.get(&tag).cloned());
            }
            more |= !requests.is_empty();
        }
        if more {
            self.request_added.notify_one();
        }
        taken
    }

    /// Whether a key is watched.
    pub(in crate::attach) fn has(&self, tag: Tag) -> bool {
        self.shard(tag).watches.contains_key(&tag)
    }

    /// Notes that a watch has to be covered.
    pub(in crate::attach) fn request(&self, tag: Tag) {
        let mut shard = self.shard(tag);
        if shard.watches.contains_key(&tag) {
            shard.requests.insert(tag);
            self.request_added.notify_one();
        }
    }

    /// Notes that the key may have changed at `since`, and has to be covered again.
    pub(in crate::attach) fn uncover(&self, tag: Tag, since: i64) {
        if let Some(watch) = self.shard(tag).watches.get(&tag) {
            self.mark_uncovered(watch, since);
        }
        self.request(tag);
    }

    /// Notes that no watch is covered any more, since the last session's lease ended at `since`.
    pub(in crate::attach) fn uncover_all(&self, since: i64) {
        for mut shard in self.all_shards() {
            let Shard { watches, requests, .. } = &mut *shard;
            for watch in watches.values() {
                self.mark_uncovered(watch, since);
            }
            requests.extend(watches.keys().copied());
        }
        self.request_added.notify_one();
    }

    /// Notes the current facts of a key. The replica of the session with this memory sends its next change.
    pub(in crate::attach) fn confirm(
        &self,
        tag: Tag,
        Confirmed { facts, digest, expires, at }: Confirmed,
        memory: &Arc<Memory>,
    ) {
        if let Some(watch) = self.shard(tag).watches.get(&tag) {
            let _ = watch.digest.set(digest);
            let memory = Arc::downgrade(memory);
            watch.state.send_replace(KeyState::Covered { facts, expires, at, memory });
        }
    }

    /// Ends the work of a key that the replica refuses.
    pub(in crate::attach) fn refuse(&self, tag: Tag, reason: Reason) {
        let removed = self.remove(&mut self.shard(tag), tag);
        if let Some(watch) = removed {
            watch.state.send_replace(KeyState::Refused(reason));
        }
    }

    fn mark_uncovered(&self, watch: &Watch, until: i64) {
        watch.state.send_if_modified(|state| {
            let KeyState::Covered { expires, at, .. } = state else { return false };
            *state = KeyState::Uncovered { since: until.max(*at), expires: *expires };
            // This alone ends nothing: waiters are woken only if they count the time without a lease.
            self.grace < i64::MAX
        });
    }

    /// Completes every wait, and refuses later ones: no session covers a key any more.
    pub(in crate::attach) fn close(&self) {
        for mut shard in self.all_shards() {
            shard.closed = true;
            shard.requests.clear();
            for (_, watch) in shard.watches.drain() {
                self.keys.fetch_sub(1, Ordering::Relaxed);
                watch.state.send_replace(KeyState::Closed);
            }
        }
    }
}
