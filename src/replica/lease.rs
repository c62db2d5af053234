//! The lease: until when this replica may answer from its cache.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use super::fault_injection;
use crate::domain::clock::{Clock, Micros};

/// Waiting for another replica's lease to end takes this much longer than the lease, since the clocks of two machines
/// may run at slightly different rates.
pub const LEASE_MARGIN: Duration = Duration::from_millis(500);

/// A deadline on the boot-time clock, which keeps running while the machine is suspended.
pub struct Lease {
    clock: Arc<dyn Clock>,
    deadline: AtomicI64,
}

impl Lease {
    /// A lease that has not started: the cache may not answer.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, deadline: AtomicI64::new(Micros::MIN) }
    }

    /// Whether the cache may answer now. Call this before reading the cache, and again for each read: a stored result
    /// could outlive the lease.
    pub fn holds(&self) -> bool {
        let deadline = self.deadline.load(Ordering::Acquire);
        if fault_injection::disabled("lease") {
            return true;
        }
        self.clock.boottime() < deadline
    }

    /// Allows answers from the cache until `deadline`. Call this only after every change that was read has been applied.
    pub fn extend(&self, deadline: Micros) {
        self.deadline.store(deadline, Ordering::Release);
    }

    /// Ends the lease at once: the cache may no longer answer.
    pub fn end(&self) {
        self.deadline.store(Micros::MIN, Ordering::SeqCst);
    }

    /// Remaining time in microseconds; 0 if the lease does not hold.
    pub fn remaining(&self) -> Micros {
        self.deadline.load(Ordering::Acquire).saturating_sub(self.clock.boottime()).max(0)
    }
}
