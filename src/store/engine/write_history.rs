//! The results of the last writes: only a write shows whether the disk accepts writes.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::store::error::{Result, StoreError, UnavailableCause};

/// A write that is older no longer shows that the disk accepts writes.
const MAX_AGE: Duration = Duration::from_secs(5);

/// The results of the last writes.
#[derive(Default)]
pub(crate) struct WriteHistory {
    /// The time of the last one that succeeded.
    succeeded_at: Mutex<Option<Instant>>,
    /// Whether a later one found the disk full.
    disk_full: AtomicBool,
}

impl WriteHistory {
    /// Records the result of a write.
    pub fn note<T>(&self, result: &Result<T>) {
        match result {
            Ok(_) => {
                *self.succeeded_at.lock() = Some(Instant::now());
                self.disk_full.store(false, Ordering::SeqCst);
            }
            Err(StoreError::Unavailable(why)) if why.cause == UnavailableCause::DiskFull => {
                self.disk_full.store(true, Ordering::SeqCst);
            }
            Err(_) => {}
        }
    }

    /// Whether the last writes show that the disk accepts writes.
    pub fn shows_writable(&self) -> bool {
        !self.disk_full.load(Ordering::SeqCst) && self.succeeded_at.lock().is_some_and(|at| at.elapsed() < MAX_AGE)
    }
}
