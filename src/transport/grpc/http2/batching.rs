//! How many responses of a connection share a write, and whether its thread waits for the next requests without sleeping.
//!
//! A write costs as much as one or two responses, so a busy thread should let responses share it. But a client that waits
//! for a whole burst of responses leaves this thread idle meanwhile, and then this thread leaves the client idle: the two
//! take turns. A thread with time to spare therefore writes a burst in parts, and the client works on the first part
//! while the next one is made.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Responses that share a write.
const MIN_BATCH: usize = 2;
const MAX_BATCH: usize = 64;
/// Polls between two decisions on the batch size.
const DECISION_INTERVAL: u32 = 32;
/// A longer gap between two polls counts as this: it shows that there is time to spare, not how much.
const MAX_GAP: Duration = Duration::from_micros(500);

/// How long the thread polls for the next burst before it sleeps, and the longest average gap at which it does that.
const SPIN_LIMIT: Duration = Duration::from_micros(60);
/// Requests in one poll that make it a burst.
const MIN_BURST: usize = 2;

/// Counts the polls of all connections of a thread. A connection whose polls follow each other directly has the thread to
/// itself.
#[derive(Debug, Default)]
pub(crate) struct PollCounter(AtomicU64);

impl PollCounter {
    /// The number of this poll.
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Decides for one connection.
pub(super) struct ResponseBatcher {
    polls: Arc<PollCounter>,
    batch_size: usize,
    /// The number of this connection's last poll.
    last_poll: u64,
    began: Instant,
    /// When the last poll that accepted a request ended.
    ended: Instant,
    /// Time inside and between polls since the last decision.
    busy: Duration,
    idle: Duration,
    polls_since_decision: u32,
    /// No other connection was polled since this connection's last poll.
    alone: bool,
    /// The last poll accepted a burst.
    burst: bool,
    /// Moving average of the gap between two polls.
    average_gap: Duration,
}

impl ResponseBatcher {
    /// For a connection that was not polled yet.
    pub(super) fn new(polls: Arc<PollCounter>, now: Instant) -> Self {
        Self {
            polls,
            batch_size: MAX_BATCH,
            last_poll: 0,
            began: now,
            ended: now,
            busy: Duration::ZERO,
            idle: Duration::ZERO,
            polls_since_decision: 0,
            alone: false,
            burst: false,
            average_gap: MAX_GAP,
        }
    }

    /// Begins a poll. Returns how many requests to answer before the responses are written.
    pub(super) fn begin(&mut self, now: Instant) -> usize {
        let poll = self.polls.next();
        self.alone = poll == self.last_poll + 1;
        (self.last_poll, self.began) = (poll, now);
        if !self.alone {
            // While this client waits, the thread works for other ones.
            self.restart();
            return usize::MAX;
        }
        self.batch_size
    }

    /// Ends a poll that accepted this many requests. One that accepted none only looked for some, and does not count.
    pub(super) fn end(&mut self, now: Instant, accepted: usize) {
        if accepted == 0 {
            return;
        }
        let gap = (self.began - self.ended).min(MAX_GAP);
        self.average_gap = (self.average_gap * 7 + gap) / 8;
        self.burst = accepted >= MIN_BURST;
        if self.alone {
            self.idle += gap;
        }
        self.busy += now - self.began;
        self.ended = now;
        self.polls_since_decision += 1;
        if self.polls_since_decision >= DECISION_INTERVAL {
            self.decide();
        }
    }

    /// A thread that is idle for more than a fifth of the time can afford more writes. One that is idle for less than a
    /// tenth cannot afford those that it makes.
    fn decide(&mut self) {
        let total = self.busy + self.idle;
        if self.idle > total / 5 {
            self.batch_size = (self.batch_size / 2).max(MIN_BATCH);
        } else if self.idle < total / 10 {
            self.batch_size = (self.batch_size * 2).min(MAX_BATCH);
        }
        self.restart();
    }

    fn restart(&mut self) {
        (self.busy, self.idle, self.polls_since_decision) = (Duration::ZERO, Duration::ZERO, 0);
    }

    /// Whether to poll for the next requests rather than to sleep. To fall asleep and be woken takes as long as several
    /// responses, and the client pays for waking this thread. Spinning is bounded by [`SPIN_LIMIT`], and happens only
    /// between bursts that follow each other within it.
    pub(super) fn should_spin(&self, now: Instant) -> bool {
        self.alone && self.burst && self.average_gap < SPIN_LIMIT && now - self.ended < SPIN_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: Duration = Duration::from_micros(50);

    fn batcher(polls: &Arc<PollCounter>, now: Instant) -> ResponseBatcher {
        ResponseBatcher::new(Arc::clone(polls), now)
    }

    /// The batch size after this many polls with an idle thread between each two; `others` are polled in between.
    fn batch_size_after(polls: u32, idle: Duration, others: bool) -> usize {
        let thread = Arc::default();
        let mut now = Instant::now();
        let mut batcher = batcher(&thread, now);
        for _ in 0..polls {
            batcher.begin(now);
            now += BUSY;
            batcher.end(now, 8);
            now += idle;
            if others {
                thread.next();
            }
        }
        batcher.begin(now)
    }

    #[test]
    fn an_idle_thread_writes_small_batches() {
        assert_eq!(batch_size_after(1_000, BUSY, false), MIN_BATCH);
        assert_eq!(batch_size_after(1_000, Duration::from_secs(1), false), MIN_BATCH);
    }

    #[test]
    fn a_busy_thread_writes_large_batches() {
        assert_eq!(batch_size_after(1_000, Duration::ZERO, false), MAX_BATCH);
        assert_eq!(batch_size_after(1_000, BUSY / 20, false), MAX_BATCH);
    }

    #[test]
    fn a_thread_with_several_connections_does_not_split_bursts() {
        assert_eq!(batch_size_after(1_000, BUSY, true), usize::MAX);
    }

    #[test]
    fn the_batch_size_follows_the_load() {
        let thread = Arc::default();
        let mut now = Instant::now();
        let mut batcher = batcher(&thread, now);
        let mut sizes = Vec::new();
        for poll in 0..1_000 {
            let size = batcher.begin(now);
            if sizes.last() != Some(&size) {
                sizes.push(size);
            }
            now += BUSY;
            batcher.end(now, 8);
            now += if poll < 500 { BUSY } else { Duration::ZERO };
        }
        assert_eq!(sizes, [64, 32, 16, 8, 4, 2, 4, 8, 16, 32, 64]);
    }

    /// Whether a connection spins `wait` after its last poll, if its polls with this many requests had this gap.
    fn spins(accepted: usize, gap: Duration, wait: Duration) -> bool {
        let thread = Arc::default();
        let mut now = Instant::now();
        let mut batcher = batcher(&thread, now);
        for _ in 0..100 {
            now += gap;
            batcher.begin(now);
            batcher.end(now, accepted);
        }
        // Polls without a request do not start the wait anew.
        for _ in 0..3 {
            batcher.begin(now + wait);
            batcher.end(now + wait, 0);
        }
        batcher.should_spin(now + wait)
    }

    #[test]
    fn only_bursts_in_quick_succession_make_the_thread_spin_and_only_for_a_bounded_time() {
        let short = SPIN_LIMIT / 2;
        assert!(spins(8, short, short));
        assert!(!spins(8, short, SPIN_LIMIT), "the next burst is late");
        assert!(!spins(1, short, short), "not a burst");
        assert!(!spins(8, SPIN_LIMIT * 2, short), "long gaps");
        assert!(!spins(8, Duration::from_secs(1), Duration::ZERO));
        let mut new = batcher(&Arc::default(), Instant::now());
        new.begin(Instant::now());
        new.end(Instant::now(), 8);
        assert!(!new.should_spin(Instant::now()), "no average yet");
    }

    #[test]
    fn a_thread_with_several_connections_does_not_spin() {
        let thread: Arc<PollCounter> = Arc::default();
        let now = Instant::now();
        let mut batcher = batcher(&thread, now);
        for step in 0..100 {
            let now = now + step * SPIN_LIMIT / 4;
            batcher.begin(now);
            thread.next();
            batcher.end(now, 8);
            assert!(!batcher.should_spin(now));
        }
    }
}
