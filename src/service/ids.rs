//! Ids of keys and events.

use std::sync::Arc;

use crate::domain::{
    clock::{Clock, Entropy},
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

    /// The id of a key that is created now.
    pub fn key_id(&self) -> KeyId {
        self.sequence.next(&*self.clock, &*self.entropy)
    }

    /// The id of an event that happens now.
    pub fn event_id(&self) -> EventId {
        EventId(self.key_id().0)
    }
}
