//! Ids of keys and events.

use std::sync::Arc;

use crate::domain::{
    clock::{Clock, Entropy, Micros},
    event::EventId,
    key::{KeyId, KeyIdGenerator},
};

/// Makes ids of keys and of events: UUIDv7, which sort by the time at which they were made.
pub struct IdGenerator {
    sequence: KeyIdGenerator,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl IdGenerator {
    pub(super) fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { sequence: KeyIdGenerator::default(), clock, entropy }
    }

    /// The id of a key that is created now, and the time that is now: the id holds the same millisecond.
    pub fn key_id(&self) -> (KeyId, Micros) {
        self.sequence.next_with_time(&*self.clock, &*self.entropy)
    }

    /// The id of an event that happens now, and the time that is now: the id holds the same millisecond.
    pub fn event_id_with_time(&self) -> (EventId, Micros) {
        let (KeyId(id), at) = self.key_id();
        (EventId(id), at)
    }

    /// The id of an event that happens now.
    pub fn event_id(&self) -> EventId {
        self.event_id_with_time().0
    }
}
