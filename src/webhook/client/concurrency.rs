//! How many requests may be under way to one place.
//!
//! A receiver may have any number of names, so that a bound by name alone lets one slow receiver take everybody's places.
//! Here it is the address that counts; but many receivers share one behind the front of a provider, so a name that has
//! shown to be quick has places that its neighbours cannot take. These are bounded, too: else a receiver whose names all
//! answer quickly once could then hang on all of them.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A receiver that takes longer than this is slow.
pub const SLOW: Duration = Duration::from_secs(2);
/// How long an address is held to be slow.
const HELD: Duration = Duration::from_secs(600);
/// Names and addresses that are remembered, of each kind.
const REMEMBERED: usize = 10_000;

/// Bounds on requests at the same time.
#[derive(Debug)]
pub struct Places {
    /// To one port of an address that was slow.
    per_host: usize,
    /// To one port of any address, and to all addresses that were slow together. Half of what may run in all.
    half: usize,
    /// To one port of any address, beside those, by names that were quick.
    quarter: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: HashMap<SocketAddr, usize>,
    running_trusted: HashMap<SocketAddr, usize>,
    running_slow: usize,
    /// Networks, and until when they are slow.
    slow: HashMap<IpAddr, Instant>,
    /// Names that were quick the last time.
    quick: HashSet<String>,
}

/// One request's place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    name: String,
    address: SocketAddr,
    taken_at: Instant,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of a name that was quick: one of the places for these.
    Trusted,
    Counted,
    /// Counted, and as one at an address that was slow.
    Slow,
}

impl Places {
    /// `per_host` and `in_all` requests at the same time, each at least 1.
    pub fn new(per_host: usize, in_all: usize) -> Arc<Self> {
        let part = |of: usize| (in_all / of).max(1);
        Arc::new(Self { per_host: per_host.max(1), half: part(2), quarter: part(4), state: Mutex::default() })
    }

    /// A place for a request to a name's address. None: it would take what others need.
    pub fn enter(self: &Arc<Self>, name: &str, address: SocketAddr) -> Option<Place> {
        let taken_at = Instant::now();
        let state = &mut *self.state();
        let slow = state.slow.get(&network(address.ip())).is_some_and(|until| taken_at < *until);
        let at = |running: &HashMap<SocketAddr, usize>| running.get(&address).copied().unwrap_or(0);
        let kind = if state.quick.contains(name) && at(&state.running_trusted) < self.quarter {
            Kind::Trusted
        } else if slow {
            Kind::Slow
        } else {
            Kind::Counted
        };
        let has_room = match kind {
            Kind::Trusted => true,
            Kind::Counted => at(&state.running) < self.half,
            Kind::Slow => at(&state.running) < self.per_host.min(self.half) && state.running_slow < self.half,
        };
        if !has_room {
            return None;
        }
        *state.running_of(kind).entry(address).or_default() += 1;
        state.running_slow += usize::from(kind == Kind::Slow);
        Some(Place { places: Arc::clone(self), name: name.to_owned(), address, taken_at, kind })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn running_of(&mut self, kind: Kind) -> &mut HashMap<SocketAddr, usize> {
        match kind {
            Kind::Trusted => &mut self.running_trusted,
            Kind::Counted | Kind::Slow => &mut self.running,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let now = Instant::now();
        let state = &mut *self.places.state();
        let running = state.running_of(self.kind);
        if let Some(count) = running.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.address);
            }
        }
        state.running_slow -= usize::from(self.kind == Kind::Slow);
        if now - self.taken_at > SLOW {
            state.quick.remove(&self.name);
            if state.slow.len() >= REMEMBERED {
                state.slow.retain(|_, until| now < *until);
            }
            if state.slow.len() >= REMEMBERED {
                state.slow.clear();
            }
            state.slow.insert(network(self.address.ip()), now + HELD);
        } else {
            if state.quick.len() >= REMEMBERED {
                state.quick.clear();
            }
            state.quick.insert(std::mem::take(&mut self.name));
        }
    }
}

/// What one receiver may have all of: an IPv4 address, or the /64 of an IPv6 one.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Ends a request as one that took longer than a quick one does.
    fn slowly(mut place: Place) {
        place.taken_at -= SLOW + Duration::from_millis(1);
    }

    fn shown_slow(places: &Arc<Places>, name: &str, address: &str) {
        slowly(places.enter(name, at(address)).unwrap());
    }

    #[test]
    fn one_port_of_an_address_takes_half_of_all_places_whatever_its_names() {
        let places = Places::new(2, 8);
        let enter = |name: usize| places.enter(&format!("n{name}.example"), at("192.0.2.1:443"));
        let taken: Vec<_> = (0..20).filter_map(enter).collect();
        assert_eq!(taken.len(), 4);
        assert!(places.enter("other.example", at("192.0.2.2:443")).is_some());
        drop(taken);
        assert_eq!((20..24).filter_map(enter).collect::<Vec<_>>().len(), 4, "given back");
    }

    #[test]
    fn a_slow_address_takes_what_one_host_may_and_all_of_them_take_half() {
        let places = Places::new(2, 8);
        for last in 1..=3 {
            shown_slow(&places, "a.example", &format!("192.0.2.{last}:443"));
        }
        let mut taken = Vec::new();
        for last in 1..=3 {
            let enter = |name| places.enter(&format!("n{name}.example"), at(&format!("192.0.2.{last}:443")));
            taken.push((0..5).filter_map(enter).collect::<Vec<_>>());
        }
        assert_eq!(taken.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 0]);
        assert!(places.enter("p.example", at("192.0.2.1:8443")).is_none(), "another port is no way round");
        assert!(places.enter("new.example", at("198.51.100.1:443")).is_some());
        drop(taken);
        places.state().slow.values_mut().for_each(|until| *until -= HELD);
        assert_eq!(places.enter("later.example", at("192.0.2.1:443")).unwrap().kind, Kind::Counted, "no longer");
    }

    #[test]
    fn a_name_that_was_quick_has_places_that_its_neighbours_cannot_take() {
        let places = Places::new(1, 8);
        let shared = at("192.0.2.1:443");
        drop(places.enter("good.example", shared));
        shown_slow(&places, "bad.example", "192.0.2.1:443");
        let held = places.enter("new.example", shared).unwrap();
        assert!(places.enter("newer.example", shared).is_none());
        let good: Vec<_> = (0..9).filter_map(|_| places.enter("good.example", shared)).collect();
        assert_eq!(good.len(), 2, "a quarter");
        // And as soon as it is slow itself, it is.
        good.into_iter().for_each(slowly);
        assert!(places.enter("good.example", shared).is_none());
        drop(held);
        assert!(places.enter("good.example", shared).is_some());
    }

    #[test]
    fn names_that_were_quick_and_then_hang_leave_a_quarter_to_others() {
        let places = Places::new(2, 8);
        let enter = |name: usize| places.enter(&format!("n{name}.example"), at("192.0.2.1:443"));
        for name in 0..20 {
            drop(enter(name));
        }
        let taken: Vec<_> = (0..20).filter_map(enter).collect();
        assert_eq!(taken.len(), 6);
        assert!(places.enter("other.example", at("192.0.2.2:443")).is_some());
        taken.into_iter().for_each(slowly);
        assert_eq!((0..6).filter_map(enter).collect::<Vec<_>>().len(), 2, "they have shown what they are");
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let places = Places::new(1, 8);
        shown_slow(&places, "a.example", "[2001:db8:1:2::1]:443");
        let other = at("[2001:db8:1:2:ffff::9]:443");
        let held = places.enter("b.example", other).unwrap();
        assert!(places.enter("c.example", other).is_none());
        assert_eq!(held.kind, Kind::Slow);
        assert_eq!(places.enter("d.example", at("[2001:db8:1:3::1]:443")).unwrap().kind, Kind::Counted);
    }
}
