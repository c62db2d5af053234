//! Who may be sent to now: attempts are bounded for each host and in all, so that a receiver that is slow or dead keeps
//! nobody waiting but itself.

use std::collections::{HashMap, HashSet, VecDeque};

/// Slow hosts that are remembered.
const REMEMBERED: usize = 1_000;

/// Work by host: what runs, and what waits for its host.
pub struct Hosts<T> {
    per_host: usize,
    in_all: usize,
    running: usize,
    running_slow: usize,
    by_name: HashMap<String, Host<T>>,
    slow: HashSet<String>,
}

struct Host<T> {
    running: usize,
    waiting: VecDeque<T>,
}

/// Work that may begin.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket<T> {
    /// Its host.
    pub host: String,
    /// Whether it takes one of the places of slow hosts.
    pub slow: bool,
    /// What to do.
    pub work: T,
}

impl<T> Hosts<T> {
    /// Bounds, each at least 1.
    pub fn new(per_host: usize, in_all: usize) -> Self {
        Self {
            per_host: per_host.max(1),
            in_all: in_all.max(1),
            running: 0,
            running_slow: 0,
            by_name: HashMap::new(),
            slow: HashSet::new(),
        }
    }

    /// How much may begin, whatever its hosts.
    pub fn room(&self) -> usize {
        self.in_all.saturating_sub(self.running)
    }

    /// Hosts that nothing more is to be taken for.
    pub fn busy(&self) -> Vec<String> {
        let full = |(name, host): &(&String, &Host<T>)| !host.waiting.is_empty() || !self.may_begin(name, host);
        let mut busy: Vec<String> = self.by_name.iter().filter(full).map(|(name, _)| name.clone()).collect();
        if self.running_slow >= self.places_of_slow() {
            busy.extend(self.slow.iter().filter(|name| !self.by_name.contains_key(*name)).cloned());
        }
        busy
    }

    /// Slow hosts leave half of all places to the others.
    fn places_of_slow(&self) -> usize {
        (self.in_all / 2).max(1)
    }

    fn may_begin(&self, name: &str, host: &Host<T>) -> bool {
        if self.slow.contains(name) {
            host.running == 0 && self.running_slow < self.places_of_slow()
        } else {
            host.running < self.per_host
        }
    }

    /// Puts work in its host's line.
    pub fn wait(&mut self, name: String, work: T) {
        let host = Host { running: 0, waiting: VecDeque::new() };
        self.by_name.entry(name).or_insert(host).waiting.push_back(work);
    }

    /// Work that may begin now, which then runs until [`Self::left`].
    pub fn next(&mut self) -> Option<Ticket<T>> {
        if self.room() == 0 {
            return None;
        }
        let ready = |(name, host): &(&String, &Host<T>)| !host.waiting.is_empty() && self.may_begin(name, host);
        let name = self.by_name.iter().find(ready).map(|(name, _)| name.clone())?;
        let slow = self.slow.contains(&name);
        let host = self.by_name.get_mut(&name)?;
        let work = host.waiting.pop_front()?;
        host.running += 1;
        self.running += 1;
        self.running_slow += usize::from(slow);
        Some(Ticket { host: name, slow, work })
    }

    /// Ends one piece of a host's work. `began_slow` is [`Ticket::slow`]; `slow` is what the host has now shown to be.
    pub fn left(&mut self, name: &str, began_slow: bool, slow: bool) {
        if slow {
            if self.slow.len() >= REMEMBERED {
                self.slow.clear();
            }
            self.slow.insert(name.to_owned());
        } else {
            self.slow.remove(name);
        }
        self.running -= 1;
        self.running_slow -= usize::from(began_slow);
        if let Some(host) = self.by_name.get_mut(name) {
            host.running -= 1;
            if host.running == 0 && host.waiting.is_empty() {
                self.by_name.remove(name);
            }
        }
    }

    /// Takes out what waits and has waited too long.
    pub fn overdue(&mut self, is_overdue: impl Fn(&T) -> bool) -> Vec<T> {
        let mut overdue = Vec::new();
        self.by_name.retain(|_, host| {
            // In the order of their claims: the first that is not overdue ends the search.
            while host.waiting.front().is_some_and(&is_overdue) {
                overdue.extend(host.waiting.pop_front());
            }
            host.running > 0 || !host.waiting.is_empty()
        });
        overdue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(hosts: &mut Hosts<u32>) -> Vec<(String, u32)> {
        let begun = std::iter::from_fn(|| hosts.next());
        let mut begun: Vec<_> = begun.map(|ticket| (ticket.host, ticket.work)).collect();
        begun.sort();
        begun
    }

    fn named(begun: &[(&str, u32)]) -> Vec<(String, u32)> {
        begun.iter().map(|(name, work)| ((*name).to_owned(), *work)).collect()
    }

    #[test]
    fn a_host_runs_as_much_as_it_may_and_the_rest_waits_in_turn() {
        let mut hosts = Hosts::new(2, 10);
        for work in 0..5 {
            hosts.wait("a".into(), work);
        }
        hosts.wait("b".into(), 9);
        assert_eq!(begin(&mut hosts), named(&[("a", 0), ("a", 1), ("b", 9)]));
        assert_eq!((hosts.room(), hosts.busy()), (7, vec!["a".to_owned()]));
        hosts.left("a", false, false);
        assert_eq!(begin(&mut hosts), named(&[("a", 2)]));
        hosts.left("b", false, false);
        assert_eq!(hosts.busy(), ["a"], "b is forgotten");
    }

    #[test]
    fn all_hosts_together_run_as_much_as_they_may() {
        let mut hosts = Hosts::new(2, 3);
        for name in ["a", "b", "c", "d"] {
            hosts.wait(name.into(), 1);
        }
        let begun = begin(&mut hosts);
        assert_eq!((begun.len(), hosts.room()), (3, 0));
        hosts.left(&begun[0].0, false, false);
        hosts.left(&begun[1].0, false, false);
        assert_eq!(hosts.room(), 2);
        assert_eq!(begin(&mut hosts).len(), 1, "the one that was left");
    }

    #[test]
    fn hosts_that_were_slow_leave_half_of_the_places_to_the_others() {
        let mut hosts = Hosts::new(4, 8);
        let slow = ["s0", "s1", "s2", "s3", "s4", "s5"];
        for name in slow {
            hosts.wait(name.into(), 0);
            assert_eq!(begin(&mut hosts).len(), 1);
            hosts.left(name, false, true);
        }
        assert!(hosts.busy().is_empty(), "there are places for them");
        for (name, work) in slow.into_iter().flat_map(|name| (1..4).map(move |work| (name, work))) {
            hosts.wait(name.into(), work);
        }
        assert_eq!(begin(&mut hosts).len(), 4, "one at a time, and four in all");
        assert_eq!(hosts.busy().len(), 6);
        for work in 0..4 {
            hosts.wait("quick".into(), work);
        }
        assert_eq!(begin(&mut hosts).len(), 4);
        assert_eq!(hosts.room(), 0);
    }

    #[test]
    fn a_host_that_answers_again_gets_its_places_back() {
        let mut hosts = Hosts::new(2, 8);
        hosts.wait("a".into(), 0);
        begin(&mut hosts);
        hosts.left("a", false, true);
        for work in 1..4 {
            hosts.wait("a".into(), work);
        }
        let ticket = hosts.next().unwrap();
        assert!(ticket.slow && hosts.next().is_none());
        hosts.left("a", true, false);
        assert_eq!(begin(&mut hosts), named(&[("a", 2), ("a", 3)]));
    }

    #[test]
    fn what_has_waited_too_long_is_given_back() {
        let mut hosts = Hosts::new(1, 8);
        for work in 0..4 {
            hosts.wait("a".into(), work);
        }
        assert_eq!(begin(&mut hosts), named(&[("a", 0)]));
        assert_eq!(hosts.overdue(|work| *work < 3), [1, 2]);
        assert_eq!(hosts.overdue(|_| true), [3]);
        assert_eq!(hosts.busy(), ["a"], "it still runs");
        hosts.left("a", false, false);
        assert!(hosts.busy().is_empty());
    }
}
