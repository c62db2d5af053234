//! The budget for the memory of requests that are still arriving: headers and incomplete bodies.
//!
//! Without it, clients could exhaust the memory with requests that they never complete. The budget has two parts.
//! Requests of callers that are not authenticated use the anonymous part, of which each connection and each client
//! address has a bounded share. Requests of authenticated callers use the other part, so that unauthenticated clients
//! cannot exhaust the memory that authenticated callers need.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

/// How many bytes may be kept.
#[derive(Debug, Clone, Copy)]
pub struct BudgetLimits {
    /// For authenticated callers together.
    pub authenticated: usize,
    /// For all other requests together.
    pub anonymous: usize,
    /// For those of one client address (IPv6: each /64).
    pub address: usize,
    /// For those of one connection.
    pub connection: usize,
}

/// The part of the budget that a request uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetPart {
    /// Of callers that are not authenticated, or not yet.
    Anonymous,
    /// Of authenticated callers.
    Authenticated,
}

/// A reservation would have exceeded the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory for requests is used up")]
pub struct BudgetExceeded;

/// The budget of the process.
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    limits: BudgetLimits,
    authenticated: AtomicUsize,
    anonymous: AtomicUsize,
    /// Only addresses that use some of the budget have an entry.
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

/// The share of one connection.
#[derive(Clone)]
pub struct ConnectionBudget(Arc<Connection>);

struct Connection {
    shared: Arc<Shared>,
    network: IpAddr,
    anonymous: AtomicUsize,
}

/// Reserved bytes. They are released when this is dropped.
pub struct Reservation {
    connection: Arc<Connection>,
    part: BudgetPart,
    bytes: usize,
}

impl Budget {
    /// Nothing is reserved.
    pub fn new(limits: BudgetLimits) -> Self {
        let (authenticated, anonymous) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self(Arc::new(Shared { limits, authenticated, anonymous, addresses: Mutex::default() }))
    }

    /// The share of a new connection from this address.
    pub fn connection(&self, address: IpAddr) -> ConnectionBudget {
        let (shared, network) = (Arc::clone(&self.0), network(address));
        ConnectionBudget(Arc::new(Connection { shared, network, anonymous: AtomicUsize::new(0) }))
    }

    /// Bytes that are reserved now.
    pub fn reserved(&self) -> usize {
        self.0.authenticated.load(Ordering::Relaxed) + self.0.anonymous.load(Ordering::Relaxed)
    }
}

impl ConnectionBudget {
    /// The client's address (IPv6: its /64), by which shares are counted.
    pub(super) fn network(&self) -> IpAddr {
        self.0.network
    }

    /// Reserves bytes.
    ///
    /// # Errors
    ///
    /// The connection, its address or the process would exceed its share. Nothing is reserved then.
    pub fn reserve(&self, bytes: usize, part: BudgetPart) -> Result<Reservation, BudgetExceeded> {
        self.0.take(bytes, part)?;
        Ok(Reservation { connection: Arc::clone(&self.0), part, bytes })
    }
}

impl Reservation {
    /// Reserves more bytes.
    ///
    /// # Errors
    ///
    /// Those of [`ConnectionBudget::reserve`]; what was reserved before stays so.
    pub fn grow(&mut self, bytes: usize) -> Result<(), BudgetExceeded> {
        self.connection.take(bytes, self.part)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Moves the bytes to the part of authenticated callers.
    ///
    /// # Errors
    ///
    /// That part is used up; the bytes stay where they are.
    pub fn authenticate(&mut self) -> Result<(), BudgetExceeded> {
        if self.part == BudgetPart::Anonymous {
            self.connection.take(self.bytes, BudgetPart::Authenticated)?;
            self.connection.release(self.bytes, BudgetPart::Anonymous);
            self.part = BudgetPart::Authenticated;
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.connection.release(self.bytes, self.part);
    }
}

impl Connection {
    fn take(&self, bytes: usize, part: BudgetPart) -> Result<(), BudgetExceeded> {
        let limits = &self.shared.limits;
        if part == BudgetPart::Authenticated {
            return add(&self.shared.authenticated, bytes, limits.authenticated);
        }
        add(&self.anonymous, bytes, limits.connection)?;
        if let Err(exceeded) = self.take_of_address(bytes) {
            self.anonymous.fetch_sub(bytes, Ordering::Relaxed);
            return Err(exceeded);
        }
        Ok(())
    }

    fn take_of_address(&self, bytes: usize) -> Result<(), BudgetExceeded> {
        let limits = &self.shared.limits;
        let mut addresses = self.shared.addresses.lock();
        let used = addresses.get(&self.network).copied().unwrap_or_default();
        if used.saturating_add(bytes) > limits.address {
            return Err(BudgetExceeded);
        }
        add(&self.shared.anonymous, bytes, limits.anonymous)?;
        addresses.insert(self.network, used + bytes);
        Ok(())
    }

    fn release(&self, bytes: usize, part: BudgetPart) {
        if part == BudgetPart::Authenticated {
            self.shared.authenticated.fetch_sub(bytes, Ordering::Relaxed);
            return;
        }
        self.anonymous.fetch_sub(bytes, Ordering::Relaxed);
        let mut addresses = self.shared.addresses.lock();
        self.shared.anonymous.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(used) = addresses.get_mut(&self.network) {
            *used -= bytes;
            if *used == 0 {
                addresses.remove(&self.network);
            }
        }
    }
}

/// Adds to a counter unless it would exceed its limit.
fn add(counter: &AtomicUsize, bytes: usize, limit: usize) -> Result<(), BudgetExceeded> {
    let add = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map(drop).map_err(|_| BudgetExceeded)
}

/// The address that a client counts by: IPv6 addresses by their /64 network, since one client usually has all of it.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BudgetLimits = BudgetLimits { authenticated: 100, anonymous: 30, address: 20, connection: 10 };

    fn from(budget: &Budget, address: &str) -> ConnectionBudget {
        budget.connection(address.parse().unwrap())
    }

    #[test]
    fn strangers_share_bounded_parts_and_leave_the_rest_to_authenticated_callers() {
        let budget = Budget::new(LIMITS);
        let (first, second, third) =
            (from(&budget, "192.0.2.1"), from(&budget, "192.0.2.1"), from(&budget, "192.0.2.1"));
        let reserved =
            [first.reserve(10, BudgetPart::Anonymous).unwrap(), second.reserve(10, BudgetPart::Anonymous).unwrap()];
        assert!(first.reserve(1, BudgetPart::Anonymous).is_err(), "the connection's share");
        assert!(third.reserve(1, BudgetPart::Anonymous).is_err(), "the address's share");
        let other = from(&budget, "192.0.2.2").reserve(10, BudgetPart::Anonymous).unwrap();
        assert!(from(&budget, "192.0.2.3").reserve(1, BudgetPart::Anonymous).is_err(), "the process's share");
        let authenticated = first.reserve(100, BudgetPart::Authenticated).unwrap();
        assert!(third.reserve(1, BudgetPart::Authenticated).is_err());
        assert_eq!(budget.reserved(), 130);
        drop((reserved, other, authenticated));
        assert_eq!(budget.reserved(), 0);
        assert!(budget.0.addresses.lock().is_empty());
    }

    #[test]
    fn a_refused_reservation_reserves_nothing() {
        let budget = Budget::new(LIMITS);
        let connection = from(&budget, "192.0.2.1");
        let mut reservation = connection.reserve(6, BudgetPart::Anonymous).unwrap();
        assert!(reservation.grow(5).is_err());
        assert!(reservation.grow(usize::MAX).is_err());
        reservation.grow(4).unwrap();
        reservation.authenticate().unwrap();
        assert_eq!(budget.0.anonymous.load(Ordering::Relaxed), 0);
        assert_eq!(connection.0.anonymous.load(Ordering::Relaxed), 0);
        reservation.grow(90).unwrap();
        drop(reservation);
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
    }
}
