//! The follower: renews the lease, applies changes to the cache, and reports how far it has applied them.
//!
//! One round has five steps, in this order:
//!
//! 1. **renew** this replica's row, committed;
//! 2. **read** the row and the changes on another connection: a renewal that is not visible there is not committed, and
//!    extends nothing;
//! 3. **apply** the changes;
//! 4. **extend** the lease, counted from before the renewal was sent;
//! 5. **report** the revision, once attached clients are done with it.
//!
//! If the changes were read before the renewal, a revocation could commit in between. Its Revoke would wait for the old
//! lease only, and this replica would go on answering from its cache under the renewed one.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Replica,
    attach::Attachments,
    cache::KeyCache,
    fault_injection,
    lease::Lease,
    membership::{Membership, MembershipEnd},
    peers::PeerTracker,
};
use crate::{
    domain::clock::{Clock, Entropy, Micros, micros},
    store::{ReplicaRow, StoreError, change_feed::ChangeFeed},
};

/// Delay between two attempts to reach the database.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Keeps the cache of one replica up to date, and its lease alive.
pub struct Follower<F> {
    feed: F,
    cache: Arc<KeyCache>,
    /// Outlives memberships, as the grants of attached clients do.
    attachments: Arc<Attachments>,
    attach_progress: watch::Receiver<u64>,
    pub(super) lease: Arc<Lease>,
    /// [`Replica::membership_error`].
    error: Arc<Mutex<Option<StoreError>>>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    lease_length: Duration,
    /// Wakes the follower before its next renewal, because there may be changes to read.
    wake: Arc<Notify>,
    pub(super) stop: CancellationToken,
    peers: PeerTracker,
}

/// Why a step of the follower failed.
enum StepError {
    /// The database is unavailable. The follower retries and continues from `seen`.
    Store(StoreError),
    /// The membership is over.
    Ended(MembershipEnd),
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn lost<T>(why: &'static str) -> Result<T, StepError> {
    Err(StepError::Ended(MembershipEnd::Lost(why)))
}

impl<F: ChangeFeed> Follower<F> {
    /// A follower of `replica` that has not joined yet.
    pub fn new(
        feed: F,
        replica: &Replica,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        lease_length: Duration,
        stop: CancellationToken,
    ) -> Self {
        let (cache, lease) = (Arc::clone(&replica.cache), Arc::clone(&replica.lease));
        let wake = Arc::clone(&replica.follower_wake);
        let error = Arc::clone(&replica.membership_error);
        let attachments = Arc::clone(&replica.attachments);
        let attach_progress = attachments.subscribe();
        let peers = PeerTracker::default();
        Self {
            feed,
            cache,
            attachments,
            attach_progress,
            lease,
            error,
            clock,
            entropy,
            lease_length,
            wake,
            stop,
            peers,
        }
    }

    /// Joins and follows until it is stopped; then leaves.
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
                    tracing::warn!(%error, "replica could not join, retrying");
                    *self.error.lock() = Some(error);
                    self.lease.end();
                    connected = false;
                    self.stop.clone().run_until_cancelled(sleep(RETRY_DELAY)).await;
                    continue;
                }
            };
            let end = self.follow(&mut member).await;
            if fault_injection::disabled("leave_order") {
                let _ = self.feed.remove(member.id, None).await;
            }
            if matches!(end, MembershipEnd::Stopped) {
                // Attached clients answer as long as their grants last.
                self.attachments.drain().await;
            }
            // End the lease before removing the row: once the row is gone, no Revoke waits for this replica.
            self.lease.end();
            match end {
                MembershipEnd::Stopped => {
                    let _ = self.feed.remove(member.id, None).await;
                    return;
                }
                MembershipEnd::Lost(why) => {
                    tracing::warn!(why, "replica rejoining");
                    // No further grants are given. While a grant runs, the row stays, so that Revokes wait for it.
                    // Later a peer removes it, or this replica does after it has joined with another id.
                    let runs = self.attachments.outstanding() > 0 && !fault_injection::disabled("attach_lost_row");
                    connected = runs || self.feed.remove(member.id, None).await.is_ok();
                }
            }
        }
    }

    async fn connect(&mut self) -> bool {
        match self.stop.clone().run_until_cancelled(self.feed.connect()).await {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                // The readiness worker logs this cause, once and then every half minute.
                tracing::debug!(%error, "follower cannot reach the database, retrying");
                *self.error.lock() = Some(error);
                sleep(RETRY_DELAY).await;
                false
            }
            None => false,
        }
    }

    async fn join(&mut self) -> Result<Membership, StoreError> {
        fault_injection::inject_delay("slow_join").await;
        let before = self.clock.boottime();
        let mut random = [0; 16];
        self.entropy.fill(&mut random);
        let id = uuid::Builder::from_random_bytes(random).into_uuid();
        let lease_ms = i64::try_from(self.lease_length.as_millis()).unwrap_or(i64::MAX);
        let seen = self.feed.join(id, lease_ms).await?;
        let last_change = self.feed.read(seen).await?.last_seen;
        // The row is committed, so every later change waits for this replica. Clearing the cache drops what earlier
        // changes made stale, and fences the look-ups in flight. Only then may the cache answer.
        if !fault_injection::disabled("join_clear") {
            self.cache.clear();
        }
        let keeps = fault_injection::disabled("attach_join_clear");
        let notice = if keeps { self.attachments.last_notice() } else { self.attachments.clear() };
        self.lease.extend(self.deadline(before));
        *self.error.lock() = None;
        self.peers = PeerTracker::default();
        tracing::info!(replica = %id, revision = seen, "joined");
        let mut member = Membership::joined(id, seen, last_change);
        member.notices.push_back((seen, notice));
        self.report(&mut member).await?;
        Ok(member)
    }

    /// Follows until the membership ends.
    async fn follow(&mut self, member: &mut Membership) -> MembershipEnd {
        let mut renewal = Instant::now() + self.lease_length / 3;
        let mut last_failure: Option<Instant> = None;
        loop {
            let renew = tokio::select! {
                () = self.stop.cancelled() => return MembershipEnd::Stopped,
                () = self.wake.notified() => Instant::now() >= renewal,
                () = self.attachments.progress(&mut self.attach_progress), if !member.notices.is_empty() => false,
                () = tokio::time::sleep_until(renewal) => true,
            };
            let began = Instant::now();
            let done = if renew { self.renew(member).await } else { self.catch_up(member).await };
            match done {
                Ok(()) if renew => renewal = began + self.lease_length / 3,
                Ok(()) => {}
                Err(StepError::Ended(end)) => return end,
                Err(StepError::Store(error)) => {
                    tracing::warn!(%error, "follower lost the database, reconnecting");
                    // If a new connection did not help at once, the database accepts no writes: wait before the next
                    // one.
                    if last_failure.is_some_and(|last| last.elapsed() < RETRY_DELAY) {
                        self.stop.clone().run_until_cancelled(sleep(RETRY_DELAY)).await;
                    }
                    last_failure = Some(Instant::now());
                    if let Some(end) = self.reconnect(member).await {
                        return end;
                    }
                    renewal = Instant::now();
                }
            }
        }
    }

    /// Reconnects, and reads whether the renewal in flight was committed. Returns the end of the membership if it is
    /// over.
    async fn reconnect(&mut self, member: &mut Membership) -> Option<MembershipEnd> {
        loop {
            if self.stop.is_cancelled() {
                return Some(MembershipEnd::Stopped);
            }
            if !self.connect().await {
                continue;
            }
            match self.feed.read(member.seen).await {
                Ok(batch) => match member.own_row(&batch) {
                    None => return Some(MembershipEnd::Lost("its row is gone")),
                    Some(row) if row.step < member.step && !fault_injection::disabled("lost_history") => {
                        return Some(MembershipEnd::Lost("the database lost history"));
                    }
                    // A higher step than the last one that was confirmed: the renewal in flight was committed.
                    Some(row) => {
                        member.step = row.step;
                        *self.error.lock() = None;
                        return None;
                    }
                },
                Err(error) => {
                    tracing::debug!(%error, "follower cannot read changes, retrying");
                    sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    /// One round: renew, read, apply, extend, report.
    async fn renew(&mut self, member: &mut Membership) -> Result<(), StepError> {
        fault_injection::inject_panic("follower");
        // The lease counts from before the renewal is sent, so that a late reply shortens it and never lengthens it.
        let before = self.clock.boottime();
        if fault_injection::disabled("renew_before_read") {
            // The wrong order, on purpose: a change that commits between this read and the renewal is missed.
            self.catch_up(member).await?;
            let before = self.clock.boottime();
            self.advance_step(member).await?;
            self.lease.extend(self.deadline(before));
            return Ok(());
        }
        self.advance_step(member).await?;
        let replicas = self.read_and_apply(member, true).await?;
        let before = if fault_injection::disabled("count_from_before") { self.clock.boottime() } else { before };
        self.lease.extend(self.deadline(before));
        self.report(member).await?;
        self.remove_dead(member, &replicas).await?;
        Ok(())
    }

    async fn advance_step(&mut self, member: &mut Membership) -> Result<(), StepError> {
        member.highest_sent += 1;
        if !self.feed.renew(member.id, member.step, member.highest_sent).await? {
            return lost("its renewal found another row, or none");
        }
        member.step = member.highest_sent;
        Ok(())
    }

    /// Reads, applies and reports changes without renewing.
    async fn catch_up(&mut self, member: &mut Membership) -> Result<(), StepError> {
        self.read_and_apply(member, false).await?;
        self.report(member).await?;
        Ok(())
    }

    /// Reads all changes and applies them. With `renewed`, the read must show the renewal that was just sent. Returns
    /// the rows of all replicas.
    async fn read_and_apply(&mut self, member: &mut Membership, renewed: bool) -> Result<Vec<ReplicaRow>, StepError> {
        loop {
            let batch = self.feed.read(member.seen).await?;
            let Some(row) = member.own_row(&batch) else { return lost("its row is gone") };
            if (row.step < member.step || batch.head < member.seen) && !fault_injection::disabled("lost_history") {
                // This also covers a renewal that was answered but not committed: it must not extend the lease.
                return lost("the database lost history");
            }
            if renewed && row.step != member.step {
                return lost("its renewal is not visible");
            }
            if row.seen_revision < member.seen {
                // A crash of the database lost the report. Report again; otherwise every Revoke would wait for the
                // whole lease.
                member.reported = member.reported.min(row.seen_revision);
            }
            if renewed && fault_injection::disabled("extend_after_apply") {
                self.lease.extend(self.deadline(self.clock.boottime()));
            }
            if !batch.changes.is_empty() {
                // Delay for most of a lease, so that a test can hit this moment.
                fault_injection::inject_delays("slow_apply", 4).await;
            }
            if !member.recognizes(&batch) && !fault_injection::disabled("lost_history") {
                return lost("the database lost a change that was applied");
            }
            for (revision, digest) in &batch.changes {
                fault_injection::inject_panic("follower_apply");
                if !fault_injection::disabled("apply") {
                    self.cache.invalidate(digest);
                    // Notify sessions after this replica's own cache was cleared, and before its lease is extended.
                    member.notices.push_back((*revision, self.attachments.apply(digest)));
                }
                (member.seen, member.last_change) = (*revision, Some(*digest));
            }
            if batch.complete {
                return Ok(batch.replicas);
            }
        }
    }

    async fn report(&mut self, member: &mut Membership) -> Result<(), StoreError> {
        let seen = member.done(self.attachments.done());
        if seen > member.reported {
            self.feed.report(member.id, seen).await?;
            member.reported = seen;
        }
        Ok(())
    }

    /// Removes the rows of replicas that have not renewed for their whole lease and the margin, on this replica's own
    /// clock.
    async fn remove_dead(&mut self, member: &Membership, replicas: &[ReplicaRow]) -> Result<(), StoreError> {
        let now = self.clock.boottime();
        for dead in self.peers.dead(member.id, replicas, now) {
            if fault_injection::disabled("no_removal") {
                continue;
            }
            tracing::info!(replica = %dead.id, "removing a replica whose lease expired");
            fault_injection::inject_delay("slow_remove").await;
            let step = if fault_injection::disabled("remove_by_step") { None } else { Some(dead.step) };
            self.feed.remove(dead.id, step).await?;
        }
        Ok(())
    }

    fn deadline(&self, before: Micros) -> Micros {
        before.saturating_add(micros(self.lease_length))
    }
}
