//! Deletes events past their retention, and sessions of the dashboard that have ended.

use tokio::time::Instant;

use super::{Jobs, STATEMENT_BATCH};
use crate::{domain::event::EventId, store::StoreError};

impl Jobs {
    pub(super) async fn delete_old_events(&self, deadline: Instant) -> Result<(), StoreError> {
        let below = EventId::lowest(self.clock.wall() - self.rules.retention);
        while Instant::now() < deadline {
            if self.store.delete_events(below, STATEMENT_BATCH).await? < u64::from(STATEMENT_BATCH) {
                break;
            }
        }
        Ok(())
    }

    pub(super) async fn delete_ended_sessions(&self, deadline: Instant) -> Result<(), StoreError> {
        let now = self.clock.wall();
        while Instant::now() < deadline {
            if self.store.delete_ended_sessions(now, STATEMENT_BATCH).await? < u64::from(STATEMENT_BATCH) {
                break;
            }
        }
        Ok(())
    }
}
