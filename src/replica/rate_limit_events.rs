//! Keys that their rate limit refused, on their way to the audit log: noted in memory, written by a worker.

use hashbrown::{HashMap, hash_map::Entry};
use parking_lot::Mutex;

use crate::domain::{
    clock::{Micros, SECOND},
    key::KeyId,
    rate_limit::RateLimit,
};

/// Locks that the keys are spread over.
const SHARDS: usize = 16;
/// Keys noted at once, for each lock; past that a refusal is not told of.
const NOTED: usize = 4_096;
/// However short a window is, a key's refusals are told of no more often than this.
const SHORTEST: Micros = 60 * SECOND;

/// A refusal to tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimitEvent {
    /// The key.
    pub key: KeyId,
    /// The window that it fell in: windows follow each other from the unix epoch on.
    pub window_start: Micros,
}

#[derive(Clone, Copy)]
struct Noted {
    start: Micros,
    end: Micros,
    taken: bool,
}

/// What was refused in each key's window, noted once.
pub struct RateLimitEventLog {
    shards: [Mutex<HashMap<KeyId, Noted>>; SHARDS],
}

impl Default for RateLimitEventLog {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl RateLimitEventLog {
    /// Notes a refusal.
    pub fn note(&self, key: KeyId, limit: RateLimit, now: Micros) {
        let length = limit.window.max(SHORTEST);
        let start = now - now.rem_euclid(length);
        let fresh = Noted { start, end: start + length, taken: false };
        let mut shard = self.shards[shard_of(key)].lock();
        let room = shard.len() < NOTED;
        match shard.entry(key) {
            Entry::Occupied(mut noted) if noted.get().start < start => *noted.get_mut() = fresh,
            Entry::Vacant(place) if room => drop(place.insert(fresh)),
            Entry::Occupied(_) | Entry::Vacant(_) => {}
        }
    }

    /// Takes what was noted since the last time, and forgets windows that are over.
    pub fn take(&self, now: Micros) -> Vec<RateLimitEvent> {
        let mut taken = Vec::new();
        for shard in &self.shards {
            shard.lock().retain(|key, noted| {
                if !noted.taken {
                    noted.taken = true;
                    taken.push(RateLimitEvent { key: *key, window_start: noted.start });
                }
                noted.end > now
            });
        }
        taken
    }

    /// Takes back what could not be written, unless a newer window has begun.
    pub fn restore(&self, taken: &[RateLimitEvent], now: Micros) {
        for refusal in taken {
            let mut shard = self.shards[shard_of(refusal.key)].lock();
            let again = Noted { start: refusal.window_start, end: now + SHORTEST, taken: false };
            let noted = shard.entry(refusal.key).or_insert(again);
            if noted.start == refusal.window_start {
                noted.taken = false;
            }
        }
    }
}

/// The last bits of an id are random.
fn shard_of(key: KeyId) -> usize {
    usize::from(key.0.as_bytes()[15]) % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { limit: 1, window: 100 * SECOND };

    fn key(n: u128) -> KeyId {
        KeyId(uuid::Uuid::from_u128(n))
    }

    #[test]
    fn a_key_is_noted_once_a_window() {
        let log = RateLimitEventLog::default();
        for now in [100, 150, 199] {
            log.note(key(1), LIMIT, now * SECOND);
        }
        let first = RateLimitEvent { key: key(1), window_start: 100 * SECOND };
        assert_eq!(log.take(199 * SECOND), [first]);
        log.note(key(1), LIMIT, 199 * SECOND);
        // A clock that steps back makes no new window.
        log.note(key(1), LIMIT, 99 * SECOND);
        assert_eq!(log.take(199 * SECOND), []);
        log.note(key(1), LIMIT, 200 * SECOND);
        assert_eq!(log.take(200 * SECOND), [RateLimitEvent { window_start: 200 * SECOND, ..first }]);
        assert_eq!(log.take(300 * SECOND), []);
        assert!(log.shards.iter().all(|shard| shard.lock().is_empty()), "what is over is forgotten");
    }

    #[test]
    fn a_short_window_is_told_of_once_a_minute() {
        let log = RateLimitEventLog::default();
        let limit = RateLimit { limit: 1, window: SECOND };
        (0..60).for_each(|second| log.note(key(1), limit, (120 + second) * SECOND));
        assert_eq!(log.take(179 * SECOND).len(), 1);
    }

    #[test]
    fn what_could_not_be_written_is_taken_again() {
        let log = RateLimitEventLog::default();
        log.note(key(1), LIMIT, 100 * SECOND);
        let taken = log.take(150 * SECOND);
        log.restore(&taken, 150 * SECOND);
        log.note(key(1), LIMIT, 160 * SECOND);
        assert_eq!(log.take(250 * SECOND), taken);
        log.restore(&taken, 250 * SECOND);
        assert_eq!(log.take(250 * SECOND), taken, "its window being over does not lose it");
    }

    #[test]
    fn memory_is_bounded() {
        let log = RateLimitEventLog::default();
        (0..200_000).for_each(|n| log.note(key(n), LIMIT, 100 * SECOND));
        assert_eq!(log.take(100 * SECOND).len(), NOTED * SHARDS);
    }
}
