//! Detects replicas that have stopped renewing.

use std::collections::HashMap;

use uuid::Uuid;

use super::lease::LEASE_MARGIN;
use crate::{
    domain::clock::{Micros, micros},
    store::ReplicaRow,
};

/// Each peer's current step, and when this replica first saw it on its own clock.
#[derive(Debug, Default)]
pub(super) struct PeerTracker(HashMap<Uuid, (i64, Micros)>);

impl PeerTracker {
    /// Records the peers' rows as read at `now`. Returns those whose step has not changed for longer than their lease
    /// and the margin.
    pub fn dead(&mut self, own: Uuid, replicas: &[ReplicaRow], now: Micros) -> Vec<ReplicaRow> {
        self.0.retain(|id, _| replicas.iter().any(|row| row.id == *id));
        let mut dead = Vec::new();
        for row in replicas.iter().filter(|row| row.id != own) {
            let (step, since) = self.0.entry(row.id).or_insert((row.step, now));
            if *step != row.step {
                (*step, *since) = (row.step, now);
            } else if now - *since > row.lease_ms.saturating_mul(1_000).saturating_add(micros(LEASE_MARGIN)) {
                dead.push(*row);
            }
        }
        dead
    }
}
