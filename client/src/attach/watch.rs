//! Keys that work was admitted under, and whoever waits for their end.
//!
//! A *watch* is what is known of one such key: it is there as long as somebody waits, and costs a check nothing. The task of
//! the session covers each watch: either the key is in the session's memory, or a look-up asks for it, and from then on the
//! replica says when it changes. A changed key is looked up again, at the replica that has said so. A watch that no session
//! covers is not over: a later session may find the key as it was. How long that may take is up to
//! [`AttachOptions::grace_period`](super::AttachOptions::grace_period).

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use zeroize::Zeroizing;

use super::{
    clock::{boottime, from_wall},
    memory::{Digest, Memory},
    tag::Tag,
};
use crate::{
    ended::{EndReason, Ended, NotWatched},
    reason::Reason,
    verdict::{KeyFacts, Origin},
};

/// Keys that are watched at once. What waits for one key is its waiters' own memory.
const MAX_WATCHED: usize = 65_536;
/// Locks that the watched keys are spread over.
const SHARDS: usize = 16;
/// The longest sleep before the clock is read again: timers stand still while the machine is suspended.
const MAX_SLEEP: Duration = Duration::from_mins(1);

/// By what a key is looked up.
#[derive(Clone)]
pub(super) enum KeyName {
    Secret(Arc<Zeroizing<String>>),
    Digest(Digest),
}

/// What is known of a watched key. All times are on the clock of leases.
#[derive(Clone)]
enum Known {
    /// No session has said what it is since then. When it expires, as far as is known.
    Unvouched { since: i64, expires: i64 },
    /// It is what these facts say, and the session with this memory hears of its next change.
    Vouched { facts: Arc<KeyFacts>, expires: i64, at: i64, memory: Weak<Memory> },
    /// It is over.
    Refused(Reason),
    /// The client is gone.
    Abandoned,
}

/// What follows for one who waits.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Over(Result<EndReason, NotWatched>),
    /// Nothing, until something changes or this time has come.
    Wait(i64),
}

impl Known {
    /// `facts` are what the work was admitted for, at the time `admitted`.
    fn judge(&self, facts: &KeyFacts, admitted: i64, grace: i64, now: i64) -> Judgement {
        let (vouched_until, expires) = match self {
            Self::Refused(reason) => return Judgement::Over(Ok(EndReason::Refused(*reason))),
            Self::Abandoned => return Judgement::Over(Err(NotWatched::NotAttached)),
            Self::Unvouched { since, expires } => (*since, *expires),
            Self::Vouched { facts: current, expires, at, memory } => {
                if let Some(reason) = facts.lost(current) {
                    return Judgement::Over(Ok(EndReason::Refused(reason)));
                }
                (memory.upgrade().map_or(*at, |memory| memory.deadline().max(*at)), *expires)
            }
        };
        let lost = vouched_until.max(admitted).saturating_add(grace);
        if now >= expires {
            Judgement::Over(Ok(EndReason::Refused(Reason::Expired)))
        } else if now >= lost {
            Judgement::Over(Ok(EndReason::LeaseLost))
        } else {
            Judgement::Wait(expires.min(lost))
        }
    }
}

/// One watched key.
pub(super) struct Watch {
    pub(super) tag: Tag,
    name: KeyName,
    /// Once it is known.
    digest: OnceLock<Digest>,
    known: watch::Sender<Known>,
}

impl Watch {
    /// By what to look the key up: not by its secret, if there is another way.
    pub(super) fn name(&self) -> KeyName {
        self.digest.get().map_or_else(|| self.name.clone(), |digest| KeyName::Digest(*digest))
    }
}

/// What a session says of a watched key.
pub(super) struct Vouched {
    pub(super) facts: Arc<KeyFacts>,
    pub(super) digest: Digest,
    pub(super) expires: i64,
    pub(super) at: i64,
}

/// The watched keys of a client.
pub(super) struct Watches {
    shards: [Mutex<Shard>; SHARDS],
    /// How many keys are watched.
    keys: AtomicUsize,
    max_keys: usize,
    /// Wakes the session's task: a watch is not covered.
    uncovered: Notify,
    /// How long work may go on that no lease vouches for, in microseconds.
    grace: i64,
}

#[derive(Default)]
struct Shard {
    watches: HashMap<Tag, Arc<Watch>>,
    /// Those that the session has to cover.
    uncovered: HashSet<Tag>,
    /// The client is gone.
    closed: bool,
}

impl Watches {
    /// None are watched. Work may go on for `grace` without a lease, or for ever.
    pub(super) fn new(grace: Option<Duration>) -> Arc<Self> {
        Self::with_bound(grace, MAX_WATCHED)
    }

    fn with_bound(grace: Option<Duration>, max_keys: usize) -> Arc<Self> {
        let grace = grace.and_then(|grace| i64::try_from(grace.as_micros()).ok());
        Arc::new(Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            keys: AtomicUsize::new(0),
            max_keys,
            uncovered: Notify::new(),
            grace: grace.unwrap_or(i64::MAX),
        })
    }

    fn shard(&self, tag: Tag) -> MutexGuard<'_, Shard> {
        self.shards[tag.shard(SHARDS)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many keys are watched.
    pub(super) fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// How many wait.
    pub(super) fn waiters(&self) -> usize {
        let of = |shard: &Shard| shard.watches.values().map(|watch| watch.known.receiver_count()).sum::<usize>();
        self.all_shards().map(|shard| of(&shard)).sum()
    }

    /// Joins those who wait for a key.
    fn join(self: &Arc<Self>, tag: Tag, name: &KeyName, expires: i64, now: i64) -> Result<Waiter, NotWatched> {
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
                let known = watch::Sender::new(Known::Unvouched { since: now, expires });
                shard.uncovered.insert(tag);
                self.uncovered.notify_one();
                let digest = OnceLock::new();
                room.insert(Arc::new(Watch { tag, name: name.clone(), digest, known }))
            }
        };
        let (watch, known) = (Arc::clone(watch), Some(watch.known.subscribe()));
        Ok(Waiter { watches: Arc::clone(self), watch, known, admitted: now })
    }

    /// Removes a watch that nobody waits at any more.
    fn leave(&self, watch: &Arc<Watch>) {
        let mut shard = self.shard(watch.tag);
        let own = shard.watches.get(&watch.tag).is_some_and(|current| Arc::ptr_eq(current, watch));
        if own && watch.known.receiver_count() == 0 {
            self.remove(&mut shard, watch.tag);
        }
    }

    fn remove(&self, shard: &mut Shard, tag: Tag) -> Option<Arc<Watch>> {
        shard.uncovered.remove(&tag);
        let watch = shard.watches.remove(&tag)?;
        self.keys.fetch_sub(1, Ordering::Relaxed);
        Some(watch)
    }

    /// Waits until a watch may have to be covered.
    pub(super) async fn requested(&self) {
        self.uncovered.notified().await;
    }

    /// Takes watches that are to be covered, at most `most`. If more are left, [`Self::requested`] returns again.
    pub(super) fn take_uncovered(&self, most: usize) -> Vec<Arc<Watch>> {
        let mut taken = Vec::new();
        let mut more = false;
        for mut shard in self.all_shards() {
            let Shard { watches, uncovered, .. } = &mut *shard;
            let tags: Vec<_> = uncovered.iter().take(most - taken.len()).copied().collect();
            for tag in tags {
                uncovered.remove(&tag);
                taken.extend(watches.get(&tag).cloned());
            }
            more |= !uncovered.is_empty();
        }
        if more {
            self.uncovered.notify_one();
        }
        taken
    }

    /// Whether a key is watched.
    pub(super) fn has(&self, tag: Tag) -> bool {
        self.shard(tag).watches.contains_key(&tag)
    }

    /// Notes that a watch has to be covered.
    pub(super) fn request(&self, tag: Tag) {
        let mut shard = self.shard(tag);
        if shard.watches.contains_key(&tag) {
            shard.uncovered.insert(tag);
            self.uncovered.notify_one();
        }
    }

    /// Notes that the key may not be any more what was known of it.
    pub(super) fn uncover(&self, tag: Tag, since: i64) {
        if let Some(watch) = self.shard(tag).watches.get(&tag) {
            self.unvouch(watch, since);
        }
        self.request(tag);
    }

    /// Notes that no session covers any watch. The lease of the last one was over at `since`.
    pub(super) fn uncover_all(&self, since: i64) {
        for mut shard in self.all_shards() {
            let Shard { watches, uncovered, .. } = &mut *shard;
            for watch in watches.values() {
                self.unvouch(watch, since);
            }
            uncovered.extend(watches.keys().copied());
        }
        self.uncovered.notify_one();
    }

    /// Says what a key is now. The session with this memory hears of its next change.
    pub(super) fn vouch(&self, tag: Tag, Vouched { facts, digest, expires, at }: Vouched, memory: &Arc<Memory>) {
        if let Some(watch) = self.shard(tag).watches.get(&tag) {
            let _ = watch.digest.set(digest);
            watch.known.send_replace(Known::Vouched { facts, expires, at, memory: Arc::downgrade(memory) });
        }
    }

    /// Says that a key is over.
    pub(super) fn refuse(&self, tag: Tag, reason: Reason) {
        let removed = self.remove(&mut self.shard(tag), tag);
        if let Some(watch) = removed {
            watch.known.send_replace(Known::Refused(reason));
        }
    }

    fn unvouch(&self, watch: &Watch, until: i64) {
        watch.known.send_if_modified(|known| {
            let Known::Vouched { expires, at, .. } = known else { return false };
            *known = Known::Unvouched { since: until.max(*at), expires: *expires };
            // This alone ends nothing, and wakes only those who count the time without a lease.
            self.grace < i64::MAX
        });
    }

    /// Says that nobody hears of the end of any key, now and later.
    pub(super) fn close(&self) {
        for mut shard in self.all_shards() {
            shard.closed = true;
            shard.uncovered.clear();
            for (_, watch) in shard.watches.drain() {
                self.keys.fetch_sub(1, Ordering::Relaxed);
                watch.known.send_replace(Known::Abandoned);
            }
        }
    }
}

/// One who waits.
struct Waiter {
    watches: Arc<Watches>,
    watch: Arc<Watch>,
    /// None only while this is dropped.
    known: Option<watch::Receiver<Known>>,
    admitted: i64,
}

impl Waiter {
    async fn wait(mut self, facts: Arc<KeyFacts>) -> Result<EndReason, NotWatched> {
        let (grace, admitted) = (self.watches.grace, self.admitted);
        let Some(known) = &mut self.known else { return Err(NotWatched::NotAttached) };
        loop {
            let now = boottime().ok_or(NotWatched::NotAttached)?;
            let until = match known.borrow_and_update().judge(&facts, admitted, grace, now) {
                Judgement::Over(end) => return end,
                Judgement::Wait(until) => until,
            };
            let left = Duration::from_micros(u64::try_from(until - now).unwrap_or(0));
            tokio::select! {
                changed = known.changed() => changed.map_err(|_| NotWatched::NotAttached)?,
                () = sleep(left.min(MAX_SLEEP)), if until < i64::MAX => {}
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.known = None;
        self.watches.leave(&self.watch);
    }
}

/// Where the facts of a key that an attached client has verified come from.
pub(super) struct Source {
    pub(super) watches: Arc<Watches>,
    pub(super) tag: Tag,
    pub(super) name: KeyName,
    /// When the key expires, if the replica has said so on the clock of leases.
    pub(super) expires: Option<i64>,
}

impl Origin for Source {
    fn watch(&self, facts: &Arc<KeyFacts>) -> Ended {
        let Some(now) = boottime() else { return Ended::not_watched(NotWatched::NotAttached) };
        let on_wall_clock = || facts.expires.map_or(i64::MAX, |time| from_wall(time, now));
        let expires = self.expires.unwrap_or_else(on_wall_clock);
        match self.watches.join(self.tag, &self.name, expires, now) {
            Ok(waiter) => Ended::new(waiter.wait(Arc::clone(facts))),
            Err(why) => Ended::not_watched(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tag::Tagger, *};
    use crate::verdict::tests::facts;

    const NEVER: i64 = i64::MAX;

    fn join(watches: &Arc<Watches>, tag: Tag) -> Result<Waiter, NotWatched> {
        watches.join(tag, &KeyName::Digest([0; 32]), NEVER, 0)
    }

    fn tags(count: usize) -> Vec<Tag> {
        let tagger = Tagger::new().unwrap();
        (0..count).map(|n| tagger.tag(&n.to_string())).collect()
    }

    #[test]
    fn work_ends_by_its_key_by_time_or_without_a_lease_and_by_nothing_else() {
        let (key, memory) = (facts("key_1"), Arc::new(Memory::new()));
        let vouched =
            |expires, at| Known::Vouched { facts: facts("key_1"), expires, at, memory: Arc::downgrade(&memory) };
        let judge = |known: &Known, grace, now| known.judge(&key, 100, grace, now);
        let (expired, lost) = (Reason::Expired, Judgement::Over(Ok(EndReason::LeaseLost)));
        let over = |reason| Judgement::Over(Ok(EndReason::Refused(reason)));
        assert_eq!(judge(&Known::Refused(Reason::Revoked), NEVER, 0), over(Reason::Revoked));
        assert_eq!(judge(&Known::Abandoned, NEVER, 0), Judgement::Over(Err(NotWatched::NotAttached)));
        let unvouched = Known::Unvouched { since: 200, expires: 1_000 };
        assert_eq!(judge(&unvouched, NEVER, 999), Judgement::Wait(1_000));
        assert_eq!(judge(&unvouched, NEVER, 1_000), over(expired));
        assert_eq!(judge(&unvouched, 50, 249), Judgement::Wait(250));
        assert_eq!(judge(&unvouched, 50, 250), lost);
        // Whoever was admitted later has that long from then.
        assert_eq!(judge(&Known::Unvouched { since: 0, expires: NEVER }, 50, 149), Judgement::Wait(150));
        assert_eq!(judge(&vouched(NEVER, 0), NEVER, NEVER - 1), Judgement::Wait(NEVER));
        assert_eq!(judge(&vouched(500, 0), NEVER, 500), over(expired));
        memory.extend(300);
        assert_eq!(judge(&vouched(NEVER, 0), 50, 349), Judgement::Wait(350), "its lease, and the grace period");
        assert_eq!(judge(&vouched(NEVER, 0), 50, 350), lost);
        assert_eq!(judge(&vouched(NEVER, 400), 50, 449), Judgement::Wait(450), "it was looked up after the lease");
    }

    #[test]
    fn watched_keys_are_bounded_and_gone_with_the_last_who_waits() {
        let (watches, tags) = (Watches::with_bound(None, 2), tags(3));
        let first = join(&watches, tags[0]);
        let second = [join(&watches, tags[1]), join(&watches, tags[1])];
        assert!(first.is_ok() && second.iter().all(Result::is_ok));
        assert_eq!(join(&watches, tags[2]).err(), Some(NotWatched::TooManyKeys));
        assert_eq!((watches.keys(), watches.waiters()), (2, 3));
        drop(second);
        assert_eq!((watches.keys(), watches.waiters()), (1, 1));
        assert!(join(&watches, tags[2]).is_ok());
        let uncovered: usize = watches.all_shards().map(|shard| shard.uncovered.len()).sum();
        assert_eq!(uncovered, 1, "only what somebody waits for");
    }

    #[test]
    fn a_refused_key_is_no_longer_watched_and_a_closed_client_watches_nothing() {
        let (watches, tags) = (Watches::new(None), tags(2));
        let [refused, open] = [0, 1].map(|n| join(&watches, tags[n]).ok().unwrap());
        watches.refuse(tags[0], Reason::Revoked);
        let known = |waiter: &Waiter| waiter.known.as_ref().unwrap().borrow().clone();
        assert!(matches!(known(&refused), Known::Refused(Reason::Revoked)));
        let later = join(&watches, tags[0]).ok().unwrap();
        drop(refused);
        assert_eq!((watches.keys(), watches.waiters()), (2, 2), "another watch of the same key stays");
        watches.close();
        assert!(matches!((known(&later), known(&open)), (Known::Abandoned, Known::Abandoned)));
        assert_eq!(join(&watches, tags[0]).err(), Some(NotWatched::NotAttached));
        drop((later, open));
        assert_eq!((watches.keys(), watches.waiters()), (0, 0));
    }

    #[test]
    fn watches_are_covered_in_parts() {
        let (watches, tags) = (Watches::new(None), tags(100));
        let waiters: Vec<_> = tags.iter().map(|tag| join(&watches, *tag).ok().unwrap()).collect();
        assert_eq!((watches.take_uncovered(30).len(), watches.take_uncovered(100).len()), (30, 70));
        assert!(watches.take_uncovered(100).is_empty());
        watches.uncover_all(0);
        drop(waiters);
        watches.request(tags[0]);
        assert!(watches.take_uncovered(100).is_empty(), "nobody waits");
    }
}
