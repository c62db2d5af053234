//! The follower: renews the lease, applies changes, and tells how far it is.
//!
//! In this order, and each step for a reason: **renew** (committed), **read** on another connection (a renewal that does
//! not show extends nothing), **apply**, **extend** (from before the renewal was sent), **report**. Were the changes read
//! before the renewal, a revocation could commit between the two, find this replica's lease about to end, and still be
//! outlived by the renewed one.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Replica, cache::KeyCache, fault_injection, lease::Lease};
use crate::{
    domain::{
        clock::{Clock, Entropy, Micros},
        key::Digest,
    },
    store::{
        ReplicaRow, StoreError,
        feed::{Feed, News},
    },
};

/// What a lease is outlived by before anybody counts on its end: for clocks that run at slightly different rates.
pub const LEASE_MARGIN: Duration = Duration::from_millis(500);
/// Between two tries to reach the database.
const PAUSE: Duration = Duration::from_millis(100);

/// Keeps one replica's memory true.
pub struct Follower<F> {
    feed: F,
    cache: Arc<KeyCache>,
    lease: Arc<Lease>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    length: Duration,
    /// A change may be there to read.
    follower_wake: Arc<Notify>,
    stop: CancellationToken,
    peers: PeerTracker,
}

/// One membership: from a join to the next.
struct Membership {
    id: Uuid,
    /// The step that its row is known to have.
    step: i64,
    /// The highest step that was ever sent: each renewal has a number that none had before, so that nobody who watched
    /// an earlier one takes it for that.
    sent: i64,
    /// Every change up to this revision is applied.
    seen: i64,
    /// The key whose change had that revision; none if it was changed again before the join.
    last: Option<Digest>,
    /// The last revision that was reported.
    reported: i64,
}

impl Membership {
    /// Whether the last applied change is still there: at its revision, or, if its key was changed again, among the
    /// changes after it. A database that lost it gives its number to another change, which would never be read.
    fn recognises(&self, news: &News) -> bool {
        match (self.last, news.last_seen) {
            (None, found) => found.is_none(),
            (Some(last), Some(found)) => last == found,
            (Some(last), None) => !news.complete || news.changes.iter().any(|(_, changed)| *changed == last),
        }
    }
}

/// Why a membership ended.
enum End {
    /// The database does not know it any more, or knows an older state of it: to be joined anew.
    Lost(&'static str),
    /// The service stops.
    Stop,
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

enum Trouble {
    /// The database is away: to be tried again, going on from `seen`.
    Store(StoreError),
    End(End),
}

impl<F: Feed> Follower<F> {
    /// A follower that has not joined yet. `hint` tells that a change may be there to read.
    pub fn new(
        feed: F,
        replica: &Replica,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        length: Duration,
        stop: CancellationToken,
    ) -> Self {
        let (cache, lease, follower_wake) =
            (Arc::clone(&replica.cache), Arc::clone(&replica.lease), Arc::clone(&replica.follower_wake));
        Self { feed, cache, lease, clock, entropy, length, follower_wake, stop, peers: PeerTracker::default() }
    }

    /// Follows until it is stopped, and leaves.
    pub async fn run(mut self) {
        let mut connected = false;
        while !self.stop.is_cancelled() {
            if !connected {
                connected = self.connect().await;
                continue;
            }
            let mut member = match self.join().await {
                Ok(member) => member,
                Err(error) => {
                    tracing::warn!(%error, "the replica could not join");
                    self.lease.end();
                    connected = false;
                    continue;
                }
            };
            let end = self.follow(&mut member).await;
            if fault_injection::disabled("leave_order") {
                let _ = self.feed.remove(member.id, None).await;
            }
            // Whatever ended it: memory answers no more, and only then is the row removed.
            self.lease.end();
            match end {
                End::Stop => {
                    let _ = self.feed.remove(member.id, None).await;
                    return;
                }
                End::Lost(why) => {
                    tracing::warn!(why, "the replica joins anew");
                    connected = self.feed.remove(member.id, None).await.is_ok();
                }
            }
        }
    }

    async fn connect(&mut self) -> bool {
        match self.stop.clone().run_until_cancelled(self.feed.connect()).await {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                tracing::debug!(%error, "the follower cannot reach the database");
                sleep(PAUSE).await;
                false
            }
            None => false,
        }
    }

    async fn join(&mut self) -> Result<Membership, StoreError> {
        let before = self.clock.boottime();
        let mut random = [0; 16];
        self.entropy.fill(&mut random);
        let id = uuid::Builder::from_random_bytes(random).into_uuid();
        let lease_ms = i64::try_from(self.length.as_millis()).unwrap_or(i64::MAX);
        let seen = self.feed.join(id, lease_ms).await?;
        let last = self.feed.read(seen).await?.last_seen;
        // The row is committed, and whatever was changed up to this revision is forgotten, look-ups in flight included:
        // only now may memory answer.
        if !fault_injection::disabled("join_clear") {
            self.cache.clear();
        }
        self.lease.extend(self.deadline(before));
        self.peers = PeerTracker::default();
        tracing::info!(replica = %id, revision = seen, "joined");
        let mut member = Membership { id, step: 0, sent: 0, seen, last, reported: -1 };
        self.report(&mut member).await?;
        Ok(member)
    }

    /// Follows one membership to its end.
    async fn follow(&mut self, member: &mut Membership) -> End {
        let mut renewal = Instant::now() + self.length / 3;
        loop {
            let renew = tokio::select! {
                () = self.stop.cancelled() => return End::Stop,
                () = self.follower_wake.notified() => Instant::now() >= renewal,
                () = tokio::time::sleep_until(renewal) => true,
            };
            let began = Instant::now();
            let done = if renew { self.renew(member).await } else { self.catch_up(member).await };
            match done {
                Ok(()) if renew => renewal = began + self.length / 3,
                Ok(()) => {}
                Err(Trouble::End(end)) => return end,
                Err(Trouble::Store(error)) => {
                    tracing::warn!(%error, "the follower lost the database; trying again");
                    if let Some(end) = self.reconnect(member).await {
                        return end;
                    }
                    renewal = Instant::now();
                }
            }
        }
    }

    /// Reaches the database again and finds out which of its renewals were committed.
    async fn reconnect(&mut self, member: &mut Membership) -> Option<End> {
        loop {
            if self.stop.is_cancelled() {
                return Some(End::Stop);
            }
            if !self.connect().await {
                continue;
            }
            match self.feed.read(member.seen).await {
                Ok(news) => match own(&news, member.id) {
                    None => return Some(End::Lost("its row is gone")),
                    Some(row) if row.step < member.step && !fault_injection::disabled("lost_history") => {
                        return Some(End::Lost("the database lost history"));
                    }
                    // The renewal that was under way may have been committed.
                    Some(row) => {
                        member.step = row.step;
                        return None;
                    }
                },
                Err(error) => {
                    tracing::debug!(%error, "the follower cannot read");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn renew(&mut self, member: &mut Membership) -> Result<(), Trouble> {
        // Counted from before it is sent: a reply that is late shortens the lease, never lengthens it.
        let before = self.clock.boottime();
        if fault_injection::disabled("renew_before_read") {
            // The wrong order: what commits after this read and before the renewal is missed.
            self.catch_up(member).await?;
            let before = self.clock.boottime();
            self.step(member).await?;
            self.lease.extend(self.deadline(before));
            return Ok(());
        }
        self.step(member).await?;
        let replicas = self.read_and_apply(member, true).await?;
        let before = if fault_injection::disabled("count_from_before") { self.clock.boottime() } else { before };
        self.lease.extend(self.deadline(before));
        self.report(member).await?;
        self.remove_dead(member, &replicas).await?;
        Ok(())
    }

    async fn step(&mut self, member: &mut Membership) -> Result<(), Trouble> {
        member.sent += 1;
        if !self.feed.renew(member.id, member.step, member.sent).await? {
            return Err(Trouble::End(End::Lost("its renewal found another row, or none")));
        }
        member.step = member.sent;
        Ok(())
    }

    async fn catch_up(&mut self, member: &mut Membership) -> Result<(), Trouble> {
        self.read_and_apply(member, false).await?;
        self.report(member).await?;
        Ok(())
    }

    /// Reads to the end of the changes, and applies them. With `renewed`, the renewal must show.
    async fn read_and_apply(&mut self, member: &mut Membership, renewed: bool) -> Result<Vec<ReplicaRow>, Trouble> {
        loop {
            let news = self.feed.read(member.seen).await?;
            let row = own(&news, member.id);
            let Some(row) = row else { return Err(Trouble::End(End::Lost("its row is gone"))) };
            if (row.step < member.step || news.head < member.seen) && !fault_injection::disabled("lost_history") {
                // Also when only this renewal does not show: what is not committed extends nothing.
                return Err(Trouble::End(End::Lost("the database lost history")));
            }
            if renewed && row.step != member.step {
                return Err(Trouble::End(End::Lost("its renewal does not show")));
            }
            if row.seen_revision < member.seen {
                // A crash of the database lost the report; without it every Revoke would wait the lease out.
                member.reported = member.reported.min(row.seen_revision);
            }
            if renewed && fault_injection::disabled("extend_after_apply") {
                self.lease.extend(self.deadline(self.clock.boottime()));
            }
            if !news.changes.is_empty() {
                fault_injection::inject_delay("slow_apply").await;
            }
            if !member.recognises(&news) && !fault_injection::disabled("lost_history") {
                return Err(Trouble::End(End::Lost("the database lost a change that was applied")));
            }
            for (revision, digest) in &news.changes {
                if !fault_injection::disabled("apply") {
                    self.cache.invalidate(digest);
                }
                (member.seen, member.last) = (*revision, Some(*digest));
            }
            if news.complete {
                return Ok(news.replicas);
            }
        }
    }

    async fn report(&mut self, member: &mut Membership) -> Result<(), StoreError> {
        if member.seen > member.reported {
            self.feed.report(member.id, member.seen).await?;
            member.reported = member.seen;
        }
        Ok(())
    }

    /// Removes rows whose replicas have renewed nothing for their whole lease and the margin, by this one's own clock.
    async fn remove_dead(&mut self, member: &Membership, replicas: &[ReplicaRow]) -> Result<(), StoreError> {
        let now = self.clock.boottime();
        for dead in self.peers.dead(member.id, replicas, now) {
            tracing::info!(replica = %dead.id, "removing a replica that renews no more");
            fault_injection::inject_delay("slow_remove").await;
            let step = if fault_injection::disabled("remove_by_step") { None } else { Some(dead.step) };
            self.feed.remove(dead.id, step).await?;
        }
        Ok(())
    }

    fn deadline(&self, before: Micros) -> Micros {
        before.saturating_add(micros(self.length))
    }
}

fn micros(length: Duration) -> Micros {
    Micros::try_from(length.as_micros()).unwrap_or(Micros::MAX)
}

fn own(news: &News, id: Uuid) -> Option<&ReplicaRow> {
    news.replicas.iter().find(|row| row.id == id)
}

/// When each peer was first seen at its present step.
#[derive(Debug, Default)]
struct PeerTracker(HashMap<Uuid, (i64, Micros)>);

impl PeerTracker {
    fn dead(&mut self, own: Uuid, replicas: &[ReplicaRow], now: Micros) -> Vec<ReplicaRow> {
        self.0.retain(|id, _| replicas.iter().any(|row| row.id == *id));
        let mut dead = Vec::new();
        for row in replicas.iter().filter(|row| row.id != own) {
            let (step, since) = self.0.entry(row.id).or_insert((row.step, now));
            if *step != row.step {
                (*step, *since) = (row.step, now);
            } else if now - *since > row.lease_ms.saturating_mul(1_000).saturating_add(micros(LEASE_MARGIN)) {
                dead.push(*row);
            }
        }
        dead
    }
}

/// How long a follower may take to leave at a stop; past that its lease runs out by itself.
pub const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs followers on a thread of their own, so that no load on the rest delays a renewal. One that panics is followed by
/// another, which joins anew; `make` makes each, and what goes on beside it.
///
/// # Errors
///
/// The system's, if the thread cannot be started.
pub fn spawn<F: Feed + 'static, B: Future<Output = ()>>(
    make: impl Fn() -> (Follower<F>, B) + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("follower".to_owned()).spawn(move || {
        loop {
            let (follower, beside) = make();
            let lease = Arc::clone(&follower.lease);
            let follow = AssertUnwindSafe(|| runtime.block_on(until_stopped(follower, beside)));
            let Err(_) = catch_unwind(follow) else { return };
            // What it had applied is not known any more.
            lease.end();
            tracing::error!("the follower panicked; another one joins");
            std::thread::sleep(PAUSE);
        }
    })
}

/// Follows until the follower's stop, and a little longer for leaving.
async fn until_stopped<F: Feed>(follower: Follower<F>, beside: impl Future<Output = ()>) {
    let stop = follower.stop.clone();
    let leave = async {
        stop.cancelled().await;
        sleep(LEAVE_TIMEOUT).await;
    };
    tokio::select! {
        () = follower.run() => {}
        () = leave => {}
        () = beside => {}
    }
}

/// Waits for a follower's thread without blocking the executor.
pub async fn joined(thread: std::thread::JoinHandle<()>) {
    let _ = timeout(LEAVE_TIMEOUT * 2, tokio::task::spawn_blocking(move || thread.join())).await;
}
