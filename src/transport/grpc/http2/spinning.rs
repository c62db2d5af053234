//! Whether a thread waits for the next requests of a connection without sleeping.
//!
//! To fall asleep and be woken takes as long as several responses, and the client pays for waking this thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How long the thread polls for the next burst before it sleeps, and the longest average gap at which it does that.
const SPIN_LIMIT: Duration = Duration::from_micros(60);
/// Requests in one poll that make it a burst.
const MIN_BURST: usize = 2;
/// A longer gap between two polls counts as this.
const MAX_GAP: Duration = Duration::from_micros(500);

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
pub(super) struct Spinning {
    polls: Arc<PollCounter>,
    /// The number of this connection's last poll.
    last_poll: u64,
    /// No other connection was polled between this connection's last two polls.
    alone: bool,
    began: Instant,
    /// When the last poll that accepted a request ended.
    ended: Instant,
    /// The last poll that accepted a request accepted a burst.
    burst: bool,
    /// Moving average of the gap between two polls.
    average_gap: Duration,
}

impl Spinning {
    /// For a connection that was not polled yet.
    pub(super) fn new(polls: Arc<PollCounter>, now: Instant) -> Self {
        Self { polls, last_poll: 0, alone: false, began: now, ended: now, burst: false, average_gap: MAX_GAP }
    }

    /// Begins a poll.
    pub(super) fn begin(&mut self, now: Instant) {
        let poll = self.polls.next();
        self.alone = poll == self.last_poll + 1;
        (self.last_poll, self.began) = (poll, now);
    }

    /// Ends a poll that accepted this many requests. One that accepted none only looked for some, and does not count.
    pub(super) fn end(&mut self, now: Instant, accepted: usize) {
        if accepted == 0 {
            return;
        }
        let gap = (self.began - self.ended).min(MAX_GAP);
        self.average_gap = (self.average_gap * 7 + gap) / 8;
        self.burst = accepted >= MIN_BURST;
        self.ended = now;
    }

    /// Whether the connection has the thread to itself, as of its last two polls.
    pub(super) fn is_alone(&self) -> bool {
        self.alone
    }

    /// Whether to poll for the next requests rather than to sleep. Spinning is bounded by [`SPIN_LIMIT`], and happens only
    /// between bursts that follow each other within it, on a connection that has the thread to itself.
    pub(super) fn should_spin(&self, now: Instant) -> bool {
        self.alone && self.burst && self.average_gap < SPIN_LIMIT && now - self.ended < SPIN_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spinning(polls: &Arc<PollCounter>, now: Instant) -> Spinning {
        Spinning::new(Arc::clone(polls), now)
    }

    /// Whether a connection spins `wait` after its last poll, if its polls with this many requests had this gap.
    fn spins(accepted: usize, gap: Duration, wait: Duration) -> bool {
        let thread = Arc::default();
        let mut now = Instant::now();
        let mut spinning = spinning(&thread, now);
        for _ in 0..100 {
            now += gap;
            spinning.begin(now);
            spinning.end(now, accepted);
        }
        // Polls without a request do not restart the wait.
        for _ in 0..3 {
            spinning.begin(now + wait);
            spinning.end(now + wait, 0);
        }
        spinning.should_spin(now + wait)
    }

    #[test]
    fn only_bursts_in_quick_succession_make_the_thread_spin_and_only_for_a_bounded_time() {
        let short = SPIN_LIMIT / 2;
        assert!(spins(8, short, short));
        assert!(!spins(8, short, SPIN_LIMIT), "the next burst is late");
        assert!(!spins(1, short, short), "not a burst");
        assert!(!spins(8, SPIN_LIMIT * 2, short), "long gaps");
        assert!(!spins(8, Duration::from_secs(1), Duration::ZERO));
        let mut new = spinning(&Arc::default(), Instant::now());
        new.begin(Instant::now());
        new.end(Instant::now(), 8);
        assert!(!new.should_spin(Instant::now()), "no average yet");
    }

    #[test]
    fn a_thread_with_several_connections_does_not_spin() {
        let thread: Arc<PollCounter> = Arc::default();
        let now = Instant::now();
        let mut spinning = spinning(&thread, now);
        for step in 0..100 {
            let now = now + step * SPIN_LIMIT / 4;
            spinning.begin(now);
            thread.next();
            spinning.end(now, 8);
            assert!(!spinning.should_spin(now));
        }
    }
}
