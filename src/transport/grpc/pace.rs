//! How many answers of a connection share a write.
//!
//! A write takes as long as one or two answers, so where a thread has no time to spare they share it. But a client that
//! waits for a whole burst of answers before it goes on leaves this thread idle meanwhile, and then the thread the
//! client: each does nothing while the other works. Where time is to spare, a burst is therefore written in parts, and
//! the client is at work on the first while the next is made.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Answers in a part, at least and at most.
const LEAST: usize = 2;
const MOST: usize = 64;
/// Turns after which the size is thought over.
const TURNS: u32 = 32;
/// A pause counts as no more than this: it tells that there is time to spare, not how much.
const PAUSE: Duration = Duration::from_micros(500);

/// How long the next burst is looked out for, where it comes as soon as that in general.
const LOOK: Duration = Duration::from_micros(60);
/// Requests that are a burst.
const BURST: usize = 2;

/// The turns of all connections of a thread.
pub type Turns = AtomicU64;

/// What a connection knows of its thread's time.
pub struct Pace {
    together: usize,
    /// The thread's turn that was this connection's last one.
    last: u64,
    began: Instant,
    ended: Instant,
    busy: Duration,
    idle: Duration,
    turns: u32,
    alone: bool,
    burst: bool,
    /// How long this connection has nothing to do between two turns, lately.
    gap: Duration,
}

impl Pace {
    /// Of a connection that has had no turn yet.
    pub fn new(now: Instant) -> Self {
        Self {
            together: MOST,
            last: 0,
            began: now,
            ended: now,
            busy: Duration::ZERO,
            idle: Duration::ZERO,
            turns: 0,
            alone: false,
            burst: false,
            gap: PAUSE,
        }
    }

    /// Begins a turn; how many answers to make before they are written.
    pub fn begin(&mut self, turns: &Turns, now: Instant) -> usize {
        let turn = turns.fetch_add(1, Ordering::Relaxed) + 1;
        self.alone = turn == self.last + 1;
        (self.last, self.began) = (turn, now);
        if !self.alone {
            // While one client waits, the thread works for another.
            (self.busy, self.idle, self.turns) = (Duration::ZERO, Duration::ZERO, 0);
            return usize::MAX;
        }
        self.together
    }

    /// Ends it; `come` is how many requests came. One without any was only a look.
    pub fn end(&mut self, now: Instant, come: usize) {
        if come == 0 {
            return;
        }
        let gap = (self.began - self.ended).min(PAUSE);
        self.gap = (self.gap * 7 + gap) / 8;
        self.burst = come >= BURST;
        if self.alone {
            self.idle += gap;
        }
        self.busy += now - self.began;
        self.ended = now;
        self.turns += 1;
        if self.turns < TURNS {
            return;
        }
        // More than a fifth of the time idle is enough to spare for more writes; less than a tenth is too little for
        // those that there are.
        let whole = self.busy + self.idle;
        if self.idle > whole / 5 {
            self.together = (self.together / 2).max(LEAST);
        } else if self.idle < whole / 10 {
            self.together = (self.together * 2).min(MOST);
        }
        (self.busy, self.idle, self.turns) = (Duration::ZERO, Duration::ZERO, 0);
    }

    /// Whether to look out for the next requests rather than to sleep. To fall asleep and be woken takes as long as several
    /// answers, and the client pays for the waking. What is spent on looking is bounded, and is spent only where bursts
    /// follow each other that soon.
    pub fn looks_out(&self, now: Instant) -> bool {
        self.alone && self.burst && self.gap < LOOK && now - self.ended < LOOK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: Duration = Duration::from_micros(50);

    /// Lets a connection have turns, between each two of which its thread is idle; how many answers it then makes
    /// before it writes.
    fn after(turns: u32, idle: Duration, others: bool) -> usize {
        let thread = Turns::new(0);
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..turns {
            pace.begin(&thread, now);
            now += BUSY;
            pace.end(now, 8);
            now += idle;
            if others {
                thread.fetch_add(1, Ordering::Relaxed);
            }
        }
        pace.begin(&thread, now)
    }

    #[test]
    fn where_there_is_time_to_spare_answers_are_written_early() {
        assert_eq!(after(1_000, BUSY, false), LEAST);
        assert_eq!(after(1_000, Duration::from_secs(1), false), LEAST);
    }

    /// Whether it looks out, a moment after its last turn, for the next burst.
    fn looks(come: usize, gap: Duration, moment: Duration) -> bool {
        let thread = Turns::new(0);
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..100 {
            now += gap;
            pace.begin(&thread, now);
            pace.end(now, come);
        }
        // Looks that find nothing are no turns of their own.
        for _ in 0..3 {
            pace.begin(&thread, now + moment);
            pace.end(now + moment, 0);
        }
        pace.looks_out(now + moment)
    }

    #[test]
    fn a_burst_that_comes_soon_is_looked_out_for_and_not_for_long() {
        let soon = LOOK / 2;
        assert!(looks(8, soon, soon));
        assert!(!looks(8, soon, LOOK), "it did not come");
        assert!(!looks(1, soon, soon), "no burst");
        assert!(!looks(8, LOOK * 2, soon), "not soon");
        assert!(!looks(8, Duration::from_secs(1), Duration::ZERO));
        let thread = Turns::new(0);
        let mut pace = Pace::new(Instant::now());
        pace.begin(&thread, Instant::now());
        pace.end(Instant::now(), 8);
        assert!(!pace.looks_out(Instant::now()), "nothing is known yet");
    }

    #[test]
    fn where_others_share_the_thread_nobody_looks_out() {
        let thread = Turns::new(0);
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for step in 0..100 {
            let now = now + step * LOOK / 4;
            pace.begin(&thread, now);
            thread.fetch_add(1, Ordering::Relaxed);
            pace.end(now, 8);
            assert!(!pace.looks_out(now));
        }
    }

    #[test]
    fn where_there_is_none_they_share_a_write() {
        assert_eq!(after(1_000, Duration::ZERO, false), MOST);
        assert_eq!(after(1_000, BUSY / 20, false), MOST);
    }

    #[test]
    fn among_other_connections_they_always_do() {
        assert_eq!(after(1_000, BUSY, true), usize::MAX);
    }

    #[test]
    fn a_thread_that_gets_busy_writes_less_often_again() {
        let thread = Turns::new(0);
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut sizes = Vec::new();
        for turn in 0..1_000 {
            let size = pace.begin(&thread, now);
            if sizes.last() != Some(&size) {
                sizes.push(size);
            }
            now += BUSY;
            pace.end(now, 8);
            now += if turn < 500 { BUSY } else { Duration::ZERO };
        }
        assert_eq!(sizes, [64, 32, 16, 8, 4, 2, 4, 8, 16, 32, 64]);
    }
}
