//! Which attempts may run at the same time.
//!
//! | what | bound |
//! |---|---|
//! | all attempts | `total` |
//! | attempts to one host | `per_host`; 1 if its last attempt was slow or found its addresses full |
//! | attempts to one endpoint (address and port) | half of `total`; `per_host` if its address was slow |
//! | attempts to hosts and addresses that were slow | half of `total`, all together |
//! | attempts of quick hosts to one endpoint, in addition | a quarter of `total` |
//!
//! Why by address too: one receiver can have any number of names, so a bound by name alone lets one slow receiver use
//! every attempt. Why quick hosts have attempts of their own: many receivers share one address (the front end of a hosting
//! provider), and a slow neighbor must not stop them. Why these are bounded too: a receiver with many names could answer
//! once quickly for each, and then hang.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use crate::domain::clock::{Micros, SECOND};

/// An attempt that takes longer than this is slow.
pub const SLOW_AFTER: Micros = 2 * SECOND;
/// An address counts as slow for this long after a slow attempt.
const SLOW_ADDRESS_TTL: Micros = 600 * SECOND;
/// Maximum number of hosts, and of addresses, whose history is kept. The history is cleared when it is full.
const MAX_REMEMBERED: usize = 10_000;
/// Maximum number of throttled hosts. A claim may have to name all of them.
const MAX_THROTTLED: usize = 1_000;

/// The counts of running attempts, and the history of hosts and addresses.
#[derive(Debug)]
pub struct Limits {
    per_host: usize,
    total: usize,
    running: usize,
    /// Of these: attempts to throttled hosts or slow addresses.
    running_slow: usize,
    running_by_host: HashMap<String, usize>,
    running_by_endpoint: HashMap<SocketAddr, EndpointCount>,
    hosts: HashMap<String, HostHistory>,
    throttled_hosts: usize,
    /// Networks that had a slow attempt, and when that expires.
    slow_networks: HashMap<IpAddr, Micros>,
}

#[derive(Debug, Default)]
struct EndpointCount {
    /// Attempts that count against the endpoint's bound.
    shared: usize,
    /// Attempts of quick hosts, which have a bound of their own.
    quick: usize,
}

/// The result of a host's last attempt.
#[derive(Debug, Clone, Copy, Default)]
struct HostHistory {
    /// It ended within [`SLOW_AFTER`].
    quick: bool,
    /// It was slow, or found its addresses full.
    throttled: bool,
}

/// An attempt's connection to an endpoint, as it is counted.
#[derive(Debug)]
pub struct Connected {
    address: SocketAddr,
    quick: bool,
    since: Micros,
}

impl Limits {
    /// Both are at least 1.
    pub fn new(per_host: usize, total: usize) -> Self {
        Self {
            per_host: per_host.max(1),
            total: total.max(1),
            running: 0,
            running_slow: 0,
            running_by_host: HashMap::new(),
            running_by_endpoint: HashMap::new(),
            hosts: HashMap::new(),
            throttled_hosts: 0,
            slow_networks: HashMap::new(),
        }
    }

    fn half(&self) -> usize {
        (self.total / 2).max(1)
    }

    fn quarter(&self) -> usize {
        (self.total / 4).max(1)
    }

    /// How many attempts may start, whatever their hosts.
    pub fn free(&self) -> usize {
        self.total.saturating_sub(self.running)
    }

    fn slow_are_full(&self) -> bool {
        self.running_slow >= self.half()
    }

    fn history(&self, host: &str) -> HostHistory {
        self.hosts.get(host).copied().unwrap_or_default()
    }

    /// Whether an attempt to this host may start.
    pub fn may_start(&self, host: &str) -> bool {
        let running = self.running_by_host.get(host).copied().unwrap_or(0);
        self.free() > 0
            && if self.history(host).throttled {
                running == 0 && !self.slow_are_full()
            } else {
                running < self.per_host
            }
    }

    /// Hosts to which no attempt may start. The bound of the total is not considered, because it is not specific to a
    /// host.
    pub fn full_hosts(&self) -> impl Iterator<Item = &str> {
        let full = |(host, running): &(&String, &usize)| self.history(host).throttled || **running >= self.per_host;
        let running = self.running_by_host.iter().filter(full).map(|(host, _)| host);
        let slow_are_full = self.slow_are_full();
        let throttled = self
            .hosts
            .iter()
            .filter(move |(host, history)| {
                slow_are_full && history.throttled && !self.running_by_host.contains_key(*host)
            })
            .map(|(host, _)| host);
        running.chain(throttled).map(String::as_str)
    }

    /// Counts an attempt to a host. Returns whether it counts as slow.
    pub fn start(&mut self, host: &str) -> bool {
        let slow = self.history(host).throttled;
        self.running += 1;
        self.running_slow += usize::from(slow);
        *self.running_by_host.entry(host.to_owned()).or_default() += 1;
        slow
    }

    /// Counts an attempt's connection to an endpoint. `slow` says whether the attempt counts as slow, and becomes true if
    /// it does from now on. None: the endpoint is full.
    pub fn connect(&mut self, host: &str, address: SocketAddr, slow: &mut bool, now: Micros) -> Option<Connected> {
        let running = self.running_by_endpoint.get(&address);
        let (shared, of_quick) = running.map_or((0, 0), |running| (running.shared, running.quick));
        let quick = self.history(host).quick && of_quick < self.quarter();
        if !quick {
            let slow_address = self.slow_networks.get(&network(address.ip())).is_some_and(|until| now < *until);
            let bound = if slow_address { self.per_host.min(self.half()) } else { self.half() };
            let becomes_slow = slow_address && !*slow;
            if shared >= bound || becomes_slow && self.slow_are_full() {
                return None;
            }
            self.running_slow += usize::from(becomes_slow);
            *slow |= slow_address;
        }
        let running = self.running_by_endpoint.entry(address).or_default();
        *(if quick { &mut running.quick } else { &mut running.shared }) += 1;
        Some(Connected { address, quick, since: now })
    }

    /// Ends what [`Self::connect`] has counted. A connection that was held for long makes its address slow.
    pub fn disconnect(&mut self, connected: &Connected, now: Micros) {
        if let Some(running) = self.running_by_endpoint.get_mut(&connected.address) {
            *(if connected.quick { &mut running.quick } else { &mut running.shared }) -= 1;
            if running.quick + running.shared == 0 {
                self.running_by_endpoint.remove(&connected.address);
            }
        }
        if now - connected.since <= SLOW_AFTER {
            return;
        }
        if self.slow_networks.len() >= MAX_REMEMBERED {
            self.slow_networks.retain(|_, until| now < *until);
        }
        if self.slow_networks.len() >= MAX_REMEMBERED {
            self.slow_networks.clear();
        }
        self.slow_networks.insert(network(connected.address.ip()), now + SLOW_ADDRESS_TTL);
    }

    /// Ends an attempt. `counted_slow` says whether it counts as slow; `outcome` is the result for its host.
    pub fn finish(&mut self, host: &str, counted_slow: bool, outcome: HostOutcome) {
        self.running -= 1;
        self.running_slow -= usize::from(counted_slow);
        if let Some(running) = self.running_by_host.get_mut(host) {
            *running -= 1;
            if *running == 0 {
                self.running_by_host.remove(host);
            }
        }
        let before = self.history(host);
        let history = match outcome {
            HostOutcome::Quick => HostHistory { quick: true, throttled: false },
            HostOutcome::Slow => HostHistory { quick: false, throttled: true },
            // Nothing was sent, so whether the host is quick does not change.
            HostOutcome::EndpointsFull => HostHistory { throttled: true, ..before },
        };
        self.remember(host, before, history);
    }

    fn remember(&mut self, host: &str, before: HostHistory, history: HostHistory) {
        if history.throttled && !before.throttled && self.throttled_hosts >= MAX_THROTTLED {
            self.hosts.values_mut().for_each(|history| history.throttled = false);
            self.throttled_hosts = 0;
        }
        if self.hosts.len() >= MAX_REMEMBERED && !self.hosts.contains_key(host) {
            self.hosts.clear();
            self.throttled_hosts = 0;
        }
        self.hosts.insert(host.to_owned(), history);
        self.throttled_hosts = self.throttled_hosts + usize::from(history.throttled) - usize::from(before.throttled);
    }
}

/// The result of an attempt, as far as it concerns its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostOutcome {
    /// It ended within [`SLOW_AFTER`].
    Quick,
    /// It took longer.
    Slow,
    /// Nothing was sent: every endpoint of the host was full.
    EndpointsFull,
}

/// The network that one receiver may own as a whole: an IPv4 address, or the /64 of an IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}
