//! The options of an attached client.

use std::{ops::RangeInclusive, time::Duration};

use crate::error::BuildError;

/// Bounds of the memory for keys.
const BYTES: RangeInclusive<usize> = 1 << 16..=1 << 40;
const MIN_GRACE_PERIOD: Duration = Duration::from_secs(1);

/// What happens while the stream to the replica is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhileAway {
    /// Memory answers for as long as the lease lasts, and never longer.
    #[default]
    UntilLeaseEnds,
    /// Memory answers nothing.
    Refuse,
}

/// How keys are kept, see [`Client::attach`](crate::Client::attach).
#[derive(Debug, Clone, Copy)]
pub struct AttachOptions {
    pub(super) bytes: usize,
    pub(super) while_away: WhileAway,
    pub(super) grace_period: Option<Duration>,
}

impl Default for AttachOptions {
    fn default() -> Self {
        Self { bytes: 64 << 20, while_away: WhileAway::default(), grace_period: None }
    }
}

impl AttachOptions {
    /// Memory for keys, in bytes: 64 MiB if it is not set. The keys that were not used for longest make room.
    #[must_use]
    pub fn bytes(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// What happens while the stream to the replica is broken.
    #[must_use]
    pub fn while_away(self, while_away: WhileAway) -> Self {
        Self { while_away, ..self }
    }

    /// How long work that was admitted under a key may go on while no live lease covers the key. Then it has to end,
    /// see [`Principal::ended`](crate::Principal::ended). At least a second: a client that answered nothing for a while
    /// has no lease when the work begins, and requests one then.
    ///
    /// Without it, work goes on until there is a session again, and ends then if its key is refused. So neither a
    /// restart of Keyward nor a broken network ends work; but a caller that can cut this process off from Keyward keeps
    /// its work going although its key was revoked.
    #[must_use]
    pub fn grace_period(self, length: Duration) -> Self {
        Self { grace_period: Some(length), ..self }
    }

    /// Checks the bounds.
    ///
    /// # Errors
    ///
    /// An option that is out of its bounds.
    pub(super) fn validate(&self) -> Result<(), BuildError> {
        if !BYTES.contains(&self.bytes) {
            return Err(BuildError::new("attach.bytes", "must be at least 64 KiB and at most 1 TiB"));
        }
        if self.grace_period.is_some_and(|length| length < MIN_GRACE_PERIOD) {
            return Err(BuildError::new("attach.grace_period", "must be at least 1 s"));
        }
        Ok(())
    }
}
