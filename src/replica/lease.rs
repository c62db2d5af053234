//! Until when memory may answer.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use super::fault_injection;
use crate::domain::clock::{Clock, Micros};

/// A deadline on the clock that goes on while the machine sleeps.
pub struct Lease {
    clock: Arc<dyn Clock>,
    deadline: AtomicI64,
}

impl Lease {
    /// A lease that does not hold yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, deadline: AtomicI64::new(Micros::MIN) }
    }

    /// Whether memory may answer now. To be asked before the entry is read, and each time anew: a result that is kept
    /// for later could outlive the lease.
    pub fn holds(&self) -> bool {
        let deadline = self.deadline.load(Ordering::Acquire);
        if fault_injection::disabled("lease") {
            return true;
        }
        self.clock.boottime() < deadline
    }

    /// Lets memory answer until `deadline`, once every change up to now is applied.
    pub fn extend(&self, deadline: Micros) {
        self.deadline.store(deadline, Ordering::Release);
    }

    /// Ends the lease at once: memory may no longer answer.
    pub fn end(&self) {
        self.deadline.store(Micros::MIN, Ordering::SeqCst);
    }

    /// What is left, in microseconds; 0 if it does not hold.
    pub fn left(&self) -> Micros {
        self.deadline.load(Ordering::Acquire).saturating_sub(self.clock.boottime()).max(0)
    }
}
