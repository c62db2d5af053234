use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::domain::clock::SECOND;

/// A clock that only tests advance.
#[derive(Default)]
struct ManualClock(AtomicI64);

impl ManualClock {
    fn advance(&self, by: Micros) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// Makes attempts that run slow.
    fn pass_slow(&self) {
        self.advance(SLOW_AFTER + 1);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Micros {
        self.boottime()
    }

    fn boottime(&self) -> Micros {
        self.0.load(Ordering::Relaxed)
    }
}

fn scheduler(per_host: usize, total: usize) -> (HostScheduler<u32>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    (HostScheduler::new(per_host, total, Arc::clone(&clock) as Arc<dyn Clock>), clock)
}

/// Starts everything that may start; sorted by host and work.
fn start_all(scheduler: &mut HostScheduler<u32>) -> Vec<(Slot, u32)> {
    let mut started: Vec<_> = std::iter::from_fn(|| scheduler.start_next()).collect();
    started.sort_by(|(a, x), (b, y)| (&a.host, x).cmp(&(&b.host, y)));
    started
}

fn names(started: &[(Slot, u32)]) -> Vec<(&str, u32)> {
    started.iter().map(|(slot, work)| (slot.host.as_str(), *work)).collect()
}

fn enqueue(scheduler: &mut HostScheduler<u32>, host: &str, work: std::ops::Range<u32>) {
    work.for_each(|work| scheduler.enqueue(host.to_owned(), work));
}

/// Starts an attempt to a host for which nothing else waits.
fn start(scheduler: &mut HostScheduler<u32>, host: &str) -> Slot {
    enqueue(scheduler, host, 0..1);
    scheduler.start_next().expect("the host may be attempted").0
}

/// Attempts that are connected to an address, each from a host of its own.
fn connect_many(scheduler: &mut HostScheduler<u32>, prefix: &str, count: u32, address: &str) -> Vec<Slot> {
    (0..count)
        .filter_map(|number| {
            enqueue(scheduler, &format!("{prefix}{number}.example"), 0..1);
            let (mut slot, _) = scheduler.start_next()?;
            slot.connect(at(address)).then_some(slot)
        })
        .collect()
}

/// Lets an attempt to this host at this address take too long.
fn show_slow(scheduler: &mut HostScheduler<u32>, clock: &ManualClock, host: &str, address: &str) {
    let mut slot = start(scheduler, host);
    assert!(slot.connect(at(address)));
    clock.pass_slow();
}

/// Lets an attempt to this host at this address end at once.
fn show_quick(scheduler: &mut HostScheduler<u32>, host: &str, address: &str) {
    assert!(start(scheduler, host).connect(at(address)));
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_host_runs_up_to_its_bound_and_the_rest_waits_in_order() {
    let (mut scheduler, _) = scheduler(2, 10);
    enqueue(&mut scheduler, "a", 0..5);
    enqueue(&mut scheduler, "b", 9..10);
    let mut started = start_all(&mut scheduler);
    assert_eq!(names(&started), [("a", 0), ("a", 1), ("b", 9)]);
    assert_eq!((scheduler.free(), scheduler.busy_hosts()), (7, vec!["a".to_owned()]));
    drop(started.remove(0));
    assert_eq!(names(&start_all(&mut scheduler)), [("a", 2)]);
    drop(started.pop());
    assert_eq!(scheduler.busy_hosts(), ["a"], "b runs nothing and nothing waits for it");
}

#[test]
fn all_hosts_together_run_up_to_the_total() {
    let (mut scheduler, _) = scheduler(2, 3);
    for host in ["a", "b", "c", "d"] {
        enqueue(&mut scheduler, host, 1..2);
    }
    let mut started = start_all(&mut scheduler);
    assert_eq!((started.len(), scheduler.free()), (3, 0));
    started.truncate(1);
    assert_eq!(scheduler.free(), 2);
    assert_eq!(start_all(&mut scheduler).len(), 1, "the one that still waited");
}

#[test]
fn slow_hosts_leave_half_of_all_attempts_to_others() {
    let (mut scheduler, clock) = scheduler(4, 8);
    let slow = ["s0", "s1", "s2", "s3", "s4", "s5"];
    let slots: Vec<_> = slow.iter().map(|host| start(&mut scheduler, host)).collect();
    clock.pass_slow();
    drop(slots);
    assert!(scheduler.busy_hosts().is_empty(), "each may be attempted");
    for host in slow {
        enqueue(&mut scheduler, host, 1..4);
    }
    let started = start_all(&mut scheduler);
    assert_eq!(started.len(), 4, "one to each host, and half in total");
    assert_eq!(scheduler.busy_hosts().len(), 6);
    enqueue(&mut scheduler, "quick", 0..4);
    assert_eq!(start_all(&mut scheduler).len(), 4);
    scheduler.take_overdue(|_| true);
    assert_eq!(scheduler.busy_hosts().len(), 6, "those that do not run are busy, too, while half is in use");
}

#[test]
fn a_slow_host_that_answers_quickly_again_gets_its_bound_back() {
    let (mut scheduler, clock) = scheduler(2, 8);
    let slot = start(&mut scheduler, "a");
    clock.pass_slow();
    drop(slot);
    enqueue(&mut scheduler, "a", 1..4);
    let started = start_all(&mut scheduler);
    assert_eq!(names(&started), [("a", 1)]);
    drop(started);
    assert_eq!(names(&start_all(&mut scheduler)), [("a", 2), ("a", 3)]);
}

#[test]
fn overdue_work_leaves_the_queue() {
    let (mut scheduler, _) = scheduler(1, 8);
    enqueue(&mut scheduler, "a", 0..4);
    let started = start_all(&mut scheduler);
    assert_eq!(names(&started), [("a", 0)]);
    assert_eq!(scheduler.take_overdue(|work| *work < 3), [1, 2]);
    assert_eq!(scheduler.take_overdue(|_| true), [3]);
    assert_eq!(scheduler.busy_hosts(), ["a"], "it still runs");
    drop(started);
    assert!(scheduler.busy_hosts().is_empty());
}

#[test]
fn an_endpoint_takes_half_of_all_attempts_whatever_its_names() {
    let (mut scheduler, _) = scheduler(2, 8);
    let connected = connect_many(&mut scheduler, "n", 20, "192.0.2.1:443");
    assert_eq!(connected.len(), 4);
    assert_eq!(connect_many(&mut scheduler, "o", 1, "192.0.2.2:443").len(), 1);
    drop(connected);
    assert_eq!(connect_many(&mut scheduler, "p", 20, "192.0.2.1:443").len(), 4, "as before");
}

#[test]
fn a_slow_receiver_takes_no_more_attempts_by_many_names_than_by_one() {
    let (many, one) = (("n", 20), ("one", 1));
    for (prefix, hosts) in [many, one] {
        let (mut scheduler, clock) = scheduler(3, 16);
        show_slow(&mut scheduler, &clock, "a.example", "192.0.2.1:443");
        let slots = if hosts == 1 {
            enqueue(&mut scheduler, prefix, 0..20);
            let mut started: Vec<_> = start_all(&mut scheduler).into_iter().map(|(slot, _)| slot).collect();
            started.retain_mut(|slot| slot.connect(at("192.0.2.1:443")));
            started
        } else {
            connect_many(&mut scheduler, prefix, hosts, "192.0.2.1:443")
        };
        assert_eq!(slots.len(), 3, "{hosts} names");
    }
}

#[test]
fn slow_addresses_together_take_half_until_they_are_forgotten() {
    let (mut scheduler, clock) = scheduler(2, 8);
    for last in 1..=3 {
        show_slow(&mut scheduler, &clock, "a.example", &format!("192.0.2.{last}:443"));
    }
    let mut connected = Vec::new();
    for last in 1..=3 {
        connected.push(connect_many(&mut scheduler, &format!("n{last}-"), 5, &format!("192.0.2.{last}:443")));
    }
    assert_eq!(connected.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 0]);
    assert!(connect_many(&mut scheduler, "p", 1, "192.0.2.1:8443").is_empty(), "another port changes nothing");
    assert_eq!(connect_many(&mut scheduler, "q", 1, "198.51.100.1:443").len(), 1);
    drop(connected);
    clock.advance(600 * SECOND);
    assert_eq!(connect_many(&mut scheduler, "r", 20, "192.0.2.1:443").len(), 4, "an address like any other");
}

#[test]
fn slow_hosts_and_slow_addresses_share_one_half() {
    let (mut scheduler, clock) = scheduler(2, 8);
    let slots: Vec<_> = ["s0", "s1", "s2"].iter().map(|host| start(&mut scheduler, host)).collect();
    show_slow(&mut scheduler, &clock, "a.example", "192.0.2.1:443");
    drop(slots);
    for host in ["s0", "s1", "s2"] {
        enqueue(&mut scheduler, host, 0..1);
    }
    let slow_hosts = start_all(&mut scheduler);
    assert_eq!(slow_hosts.len(), 3);
    assert_eq!(connect_many(&mut scheduler, "n", 5, "192.0.2.1:443").len(), 1, "the last of the half");
}

#[test]
fn a_quick_host_has_attempts_that_neighbors_at_its_address_cannot_take() {
    let (mut scheduler, clock) = scheduler(8, 32);
    let shared = "192.0.2.1:443";
    show_quick(&mut scheduler, "good.example", shared);
    show_slow(&mut scheduler, &clock, "bad.example", shared);
    let neighbors = connect_many(&mut scheduler, "n", 20, shared);
    assert_eq!(neighbors.len(), 8);
    let connect_good = |scheduler: &mut HostScheduler<u32>| {
        enqueue(scheduler, "good.example", 0..8);
        let mut slots: Vec<_> = start_all(scheduler).into_iter().map(|(slot, _)| slot).collect();
        slots.retain_mut(|slot| slot.connect(at(shared)));
        slots
    };
    let good = connect_good(&mut scheduler);
    assert_eq!(good.len(), 8, "a quarter");
    // As soon as it is slow itself, it is treated like the others at its address.
    clock.pass_slow();
    drop(good);
    assert!(connect_good(&mut scheduler).is_empty());
    scheduler.take_overdue(|_| true);
    drop(neighbors);
    assert_eq!(connect_good(&mut scheduler).len(), 1);
}

#[test]
fn a_quick_host_whose_endpoints_are_full_is_quick_afterwards() {
    let (mut scheduler, clock) = scheduler(2, 8);
    let shared = "192.0.2.1:443";
    for host in ["good.example", "q0.example", "q1.example"] {
        show_quick(&mut scheduler, host, shared);
    }
    show_slow(&mut scheduler, &clock, "bad.example", shared);
    let quick = connect_many(&mut scheduler, "q", 2, shared);
    let neighbors = connect_many(&mut scheduler, "n", 20, shared);
    assert_eq!((quick.len(), neighbors.len()), (2, 2));
    assert!(!start(&mut scheduler, "good.example").connect(at(shared)));
    drop(quick);
    enqueue(&mut scheduler, "good.example", 0..2);
    let mut started = start_all(&mut scheduler);
    assert_eq!(started.len(), 1, "one at a time until an attempt has found room");
    assert!(started[0].0.connect(at(shared)));
}

#[test]
fn hosts_that_answered_once_and_then_hang_leave_a_quarter_to_others() {
    let (mut scheduler, clock) = scheduler(2, 8);
    for number in 0..20 {
        show_quick(&mut scheduler, &format!("n{number}.example"), "192.0.2.1:443");
    }
    let connected = connect_many(&mut scheduler, "n", 20, "192.0.2.1:443");
    assert_eq!(connected.len(), 6);
    assert_eq!(connect_many(&mut scheduler, "o", 1, "192.0.2.2:443").len(), 1);
    clock.pass_slow();
    drop(connected);
    let again = connect_many(&mut scheduler, "n", 6, "192.0.2.1:443");
    assert_eq!(again.len(), 2, "the address is slow, and so are they");
}

#[test]
fn another_address_of_the_same_attempt_replaces_the_one_before() {
    let (mut scheduler, _) = scheduler(2, 2);
    let mut slot = start(&mut scheduler, "a.example");
    assert!(slot.connect(at("192.0.2.1:443")) && slot.connect(at("192.0.2.2:443")));
    let mut other = start(&mut scheduler, "b.example");
    assert!(!other.connect(at("192.0.2.2:443")), "half of two");
    assert!(other.connect(at("192.0.2.1:443")));
}

#[test]
fn an_ipv6_network_counts_as_one_address() {
    let (mut scheduler, clock) = scheduler(1, 8);
    show_slow(&mut scheduler, &clock, "a.example", "[2001:db8:1:2::1]:443");
    let same = connect_many(&mut scheduler, "b", 2, "[2001:db8:1:2:ffff::9]:443");
    assert_eq!(same.len(), 1);
    assert_eq!(connect_many(&mut scheduler, "c", 9, "[2001:db8:1:3::1]:443").len(), 4);
}
