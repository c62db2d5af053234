//! The addresses of Keyward, used round robin.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::endpoint::Endpoint;

/// The addresses of Keyward; at least one.
pub(crate) struct Endpoints {
    all: Vec<Arc<Endpoint>>,
    next: AtomicUsize,
}

impl Endpoints {
    /// These addresses. The caller chooses `first` at random, so that clients spread over all addresses.
    pub(crate) fn new(all: Vec<Arc<Endpoint>>, first: usize) -> Self {
        Self { all, next: AtomicUsize::new(first) }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// How many of them have failed lately.
    pub(crate) fn down(&self) -> usize {
        self.all.iter().filter(|endpoint| !endpoint.is_up()).count()
    }

    /// The next address that is up. If none is up, the next one: the caller then gets its error.
    pub(crate) fn next(&self) -> &Arc<Endpoint> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let turn = |step: usize| &self.all[first.wrapping_add(step) % self.all.len()];
        (0..self.all.len()).map(turn).find(|endpoint| endpoint.is_up()).unwrap_or_else(|| turn(0))
    }
}
