//! Memory of a million limited keys. nextest runs each test in its own process, which measures its own resident size.

use std::sync::Arc;

use keyward::{
    domain::{
        clock::{SECOND, SystemClock},
        rate_limit::{
            RateLimit, RateState, SpendResult,
            permit_lease::{Grant, GrantOrigin},
        },
    },
    limiter::{
        memory::MemoryLimiter,
        permit_leases::{PermitLeases, SpendStart},
    },
};

use crate::subject;

const KEYS: u32 = 1_000_000;
const LIMIT: RateLimit = RateLimit { limit: 1_000, window: 3_600 * SECOND };

fn resident_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024 / 1_000_000
}

/// A realistic key id: a timestamp in the first bits, random last bits.
fn key(number: u32) -> keyward::limiter::Subject {
    let number = u128::from(number);
    subject((1_763_000_000_000 + number) << 80 | 0x7 << 76 | number.wrapping_mul(0x9e37_79b9_7f4a_7c15) << 12)
}

#[test]
fn a_million_limited_keys_fit_in_200_megabytes() {
    let before = resident_megabytes();
    let limiter = MemoryLimiter::new(Arc::new(SystemClock));
    for number in 0..KEYS {
        assert!(limiter.spend(key(number), LIMIT, 1).admitted);
    }
    let taken = resident_megabytes() - before;
    assert_eq!(limiter.len(), 1_000_000);
    println!("{taken} MB");
    assert!((64..=200).contains(&taken), "{taken} MB");
}

#[test]
fn a_million_permit_leases_fit_in_200_megabytes() {
    let before = resident_megabytes();
    let leases = PermitLeases::new(Arc::new(SystemClock), 100);
    for number in 0..KEYS {
        let SpendStart::Request(request) = leases.spend_or_request(key(number), LIMIT, 1) else {
            panic!("there is no lease yet, so a request is needed")
        };
        let state = RateState { limit: LIMIT.limit, remaining: 900, reset_at: 0, retry_after: None };
        let grant = Grant { permits: 62, left: 300 * SECOND, origin: GrantOrigin { bucket: 1, window: 1 } };
        request.complete(SpendResult { admitted: true, state }, Some(grant));
    }
    let taken = resident_megabytes() - before;
    assert_eq!(leases.len(), 1_000_000);
    println!("{taken} MB");
    assert!((64..=200).contains(&taken), "{taken} MB");
    // The lease of the last key cannot have expired yet, however slow the machine is.
    assert!(leases.spend(key(KEYS - 1), LIMIT, 1).is_some());
}
