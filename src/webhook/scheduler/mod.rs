//! Which deliveries may be attempted now: they wait in a queue for each host, and start within the bounds of
//! [`limits`], so that a receiver that is slow or unreachable delays no other.

mod limits;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use self::limits::{Connected, HostOutcome, Limits, SLOW_AFTER};
use crate::domain::clock::{Clock, Micros};

/// Queues work by host, and starts it within bounds for each host, each address and in total.
pub struct HostScheduler<T> {
    queues: HashMap<String, VecDeque<T>>,
    shared: Arc<Shared>,
}

/// What the scheduler and its slots share.
struct Shared {
    limits: Mutex<Limits>,
    clock: Arc<dyn Clock>,
}

impl Shared {
    fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt that runs, and counts until it is dropped. The time until [`Self::finished`] shows whether its host is slow.
pub struct Slot {
    shared: Arc<Shared>,
    host: String,
    started: Micros,
    slow: bool,
    connected: Option<Connected>,
    endpoints: Endpoints,
    outcome: Option<HostOutcome>,
}

/// The results of an attempt's endpoints so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoints {
    Untried,
    /// There was room at none of them.
    Full,
    /// There was room at one.
    Tried,
}

impl<T> HostScheduler<T> {
    /// Bounds on running work, each at least 1.
    pub fn new(per_host: usize, total: usize, clock: Arc<dyn Clock>) -> Self {
        let limits = Mutex::new(Limits::new(per_host, total));
        Self { queues: HashMap::new(), shared: Arc::new(Shared { limits, clock }) }
    }

    /// How much work may start, whatever its hosts.
    pub fn free(&self) -> usize {
        self.shared.limits().free()
    }

    /// Hosts whose deliveries must not be claimed now: work waits for them already, or none may start.
    pub fn busy_hosts(&self) -> Vec<String> {
        let limits = self.shared.limits();
        let full = limits.full_hosts().filter(|host| !self.queues.contains_key(*host));
        self.queues.keys().map(String::as_str).chain(full).map(str::to_owned).collect()
    }

    /// Puts work at the end of its host's queue.
    pub fn enqueue(&mut self, host: String, work: T) {
        self.queues.entry(host).or_default().push_back(work);
    }

    /// Starts the next work that may start.
    pub fn start_next(&mut self) -> Option<(Slot, T)> {
        let mut limits = self.shared.limits();
        let host = self.queues.keys().find(|host| limits.may_start(host))?.clone();
        let queue = self.queues.get_mut(&host)?;
        let work = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&host);
        }
        let slow = limits.start(&host);
        drop(limits);
        let shared = Arc::clone(&self.shared);
        let started = shared.clock.monotonic();
        let endpoints = Endpoints::Untried;
        Some((Slot { shared, host, started, slow, connected: None, endpoints, outcome: None }, work))
    }

    /// Removes the work at the head of each queue for which `is_overdue` holds.
    pub fn take_overdue(&mut self, is_overdue: impl Fn(&T) -> bool) -> Vec<T> {
        let mut overdue = Vec::new();
        self.queues.retain(|_, queue| {
            // A queue is in the order of claims: the first that is not overdue ends the search.
            while queue.front().is_some_and(&is_overdue) {
                overdue.extend(queue.pop_front());
            }
            !queue.is_empty()
        });
        overdue
    }
}

impl Slot {
    /// Counts a connection to this endpoint, instead of the one before. False: too many attempts are connected to it.
    #[must_use]
    pub fn connect(&mut self, address: SocketAddr) -> bool {
        let now = self.shared.clock.monotonic();
        let mut limits = self.shared.limits();
        if let Some(former) = self.connected.take() {
            limits.disconnect(&former, now);
        }
        self.connected = limits.connect(&self.host, address, &mut self.slow, now);
        self.endpoints = match self.connected {
            None if self.endpoints == Endpoints::Untried => Endpoints::Full,
            None => self.endpoints,
            Some(_) => Endpoints::Tried,
        };
        self.connected.is_some()
    }

    /// Records that the request has ended: its connection no longer counts, and the time that recording the result
    /// takes does not make the receiver slow.
    pub fn finished(&mut self) {
        let shared = Arc::clone(&self.shared);
        self.finish_request(&mut shared.limits());
    }

    fn finish_request(&mut self, limits: &mut Limits) -> HostOutcome {
        let now = self.shared.clock.monotonic();
        if let Some(connected) = self.connected.take() {
            limits.disconnect(&connected, now);
        }
        *self.outcome.get_or_insert(match self.endpoints {
            Endpoints::Full => HostOutcome::EndpointsFull,
            _ if now - self.started > SLOW_AFTER => HostOutcome::Slow,
            _ => HostOutcome::Quick,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut limits = shared.limits();
        let outcome = self.finish_request(&mut limits);
        limits.finish(&self.host, self.slow, outcome);
    }
}
