//! Refusals by rate limits, collected in memory for the audit log. A worker flushes them to the database.

use hashbrown::{HashMap, hash_map::Entry};
use parking_lot::Mutex;

use crate::domain::{
    clock::{Micros, SECOND},
    key::KeyId,
    rate_limit::RateLimit,
};

/// Number of locks that the keys are spread over.
const SHARDS: usize = 16;
/// Maximum number of keys for each lock. Further refusals are not recorded.
const MAX_KEYS_PER_SHARD: usize = 4_096;
/// Minimum interval between two events of one key, however short its rate limit's window is.
const MIN_EVENT_INTERVAL: Micros = 60 * SECOND;

/// One event: a key was refused by its rate limit in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimitEvent {
    /// The key.
    pub key: KeyId,
    /// Start of the window. Windows follow each other from the Unix epoch on.
    pub window_start: Micros,
}

#[derive(Clone, Copy)]
struct RecordedWindow {
    start: Micros,
    end: Micros,
    taken: bool,
}

/// Refusals that are not flushed yet, at most one for each key and window.
pub struct RateLimitEventLog {
    shards: [Mutex<HashMap<KeyId, RecordedWindow>>; SHARDS],
}

impl Default for RateLimitEventLog {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl RateLimitEventLog {
    /// Records a refusal.
    pub fn record(&self, key: KeyId, limit: RateLimit, now: Micros) {
        let length = limit.window.max(MIN_EVENT_INTERVAL);
        let start = now - now.rem_euclid(length);
        let fresh = RecordedWindow { start, end: start + length, taken: false };
        let mut shard = self.shards[shard_of(key)].lock();
        let room = shard.len() < MAX_KEYS_PER_SHARD;
        match shard.entry(key) {
            Entry::Occupied(mut recorded) if recorded.get().start < start => *recorded.get_mut() = fresh,
            Entry::Vacant(vacant) if room => drop(vacant.insert(fresh)),
            Entry::Occupied(_) | Entry::Vacant(_) => {}
        }
    }

    /// Takes the events recorded since the last call, and drops windows that are over.
    pub fn take(&self, now: Micros) -> Vec<RateLimitEvent> {
        let mut taken = Vec::new();
        for shard in &self.shards {
            shard.lock().retain(|key, recorded| {
                if !recorded.taken {
                    recorded.taken = true;
                    taken.push(RateLimitEvent { key: *key, window_start: recorded.start });
                }
                recorded.end > now
            });
        }
        taken
    }

    /// Puts back events whose flush failed, unless a newer window of the key has begun.
    pub(crate) fn restore(&self, taken: &[RateLimitEvent], now: Micros) {
        for event in taken {
            let mut shard = self.shards[shard_of(event.key)].lock();
            let again = RecordedWindow { start: event.window_start, end: now + MIN_EVENT_INTERVAL, taken: false };
            let recorded = shard.entry(event.key).or_insert(again);
            if recorded.start == event.window_start {
                recorded.taken = false;
            }
        }
    }
}

/// Uses the last byte of the id, which is random.
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
    fn a_key_yields_one_event_per_window() {
        let log = RateLimitEventLog::default();
        for now in [100, 150, 199] {
            log.record(key(1), LIMIT, now * SECOND);
        }
        let first = RateLimitEvent { key: key(1), window_start: 100 * SECOND };
        assert_eq!(log.take(199 * SECOND), [first]);
        log.record(key(1), LIMIT, 199 * SECOND);
        // A clock that steps back starts no new window.
        log.record(key(1), LIMIT, 99 * SECOND);
        assert_eq!(log.take(199 * SECOND), []);
        log.record(key(1), LIMIT, 200 * SECOND);
        assert_eq!(log.take(200 * SECOND), [RateLimitEvent { window_start: 200 * SECOND, ..first }]);
        assert_eq!(log.take(300 * SECOND), []);
        assert!(log.shards.iter().all(|shard| shard.lock().is_empty()), "windows that are over are dropped");
    }

    #[test]
    fn a_short_window_yields_one_event_per_minute() {
        let log = RateLimitEventLog::default();
        let limit = RateLimit { limit: 1, window: SECOND };
        (0..60).for_each(|second| log.record(key(1), limit, (120 + second) * SECOND));
        assert_eq!(log.take(179 * SECOND).len(), 1);
    }

    #[test]
    fn events_whose_flush_failed_are_taken_again() {
        let log = RateLimitEventLog::default();
        log.record(key(1), LIMIT, 100 * SECOND);
        let taken = log.take(150 * SECOND);
        log.restore(&taken, 150 * SECOND);
        log.record(key(1), LIMIT, 160 * SECOND);
        assert_eq!(log.take(250 * SECOND), taken);
        log.restore(&taken, 250 * SECOND);
        assert_eq!(log.take(250 * SECOND), taken, "the end of its window does not lose the event");
    }

    #[test]
    fn memory_is_bounded() {
        let log = RateLimitEventLog::default();
        (0..200_000).for_each(|n| log.record(key(n), LIMIT, 100 * SECOND));
        assert_eq!(log.take(100 * SECOND).len(), MAX_KEYS_PER_SHARD * SHARDS);
    }
}
