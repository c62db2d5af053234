//! What was asked and answered, and whether it breaks the promise.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use keyward::proto::Code;
use tonic::Status;

/// A key under test.
pub struct Key {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// When a Revoke of it first returned OK.
    certain: OnceLock<Instant>,
}

impl Key {
    /// A key that nobody has revoked.
    pub fn new(id: String, secret: String) -> Self {
        Self { id, secret, certain: OnceLock::new() }
    }

    /// A Revoke of it has returned OK.
    pub fn revoked(&self) {
        let _ = self.certain.set(Instant::now());
    }

    /// Whether one has. What starts after this said so must not find the key valid.
    pub fn is_revoked(&self) -> bool {
        self.certain.get().is_some()
    }
}

/// Counts, and everything that broke the promise.
#[derive(Default)]
pub struct History {
    /// Keys whose Revoke returned OK.
    pub revocations: AtomicU64,
    /// Revokes that were told to be repeated.
    pub pending: AtomicU64,
    /// Revokes that ended otherwise: cancelled, cut off, undecided.
    pub unanswered: AtomicU64,
    /// VALID answers to checks that started before.
    pub valid_before: AtomicU64,
    /// Answers to checks that started after.
    pub refused_after: AtomicU64,
    /// Checks that started after and were not decided.
    pub undecided_after: AtomicU64,
    /// Checks that were not decided and started before.
    pub undecided_before: AtomicU64,
    /// VALID answers to checks that started after: there must be none.
    pub violations: Mutex<Vec<String>>,
    faults: Mutex<BTreeMap<&'static str, u64>>,
    latencies: Mutex<Vec<Duration>>,
}

impl History {
    /// Enters an answer. `certain` is what [`Key::is_revoked`] said before the check was sent.
    pub fn checked(&self, replica: usize, key: &Key, certain: bool, started: Instant, answer: &Result<Code, Status>) {
        let counter = match (certain, answer) {
            (false, Ok(Code::Valid)) => &self.valid_before,
            (true, Ok(Code::Valid)) => {
                let since = key.certain.get().map(|at| started.duration_since(*at));
                let took = started.elapsed();
                let line = format!("replica {replica}: {} VALID, asked {since:?} after OK, took {took:?}", key.id);
                self.violations.lock().unwrap().push(line);
                return;
            }
            (true, Ok(_)) => &self.refused_after,
            (false, Ok(_)) => return,
            (true, Err(_)) => &self.undecided_after,
            (false, Err(_)) => &self.undecided_before,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a fault.
    pub fn fault(&self, kind: &'static str) {
        *self.faults.lock().unwrap().entry(kind).or_default() += 1;
    }

    /// Enters how long a Revoke took while nothing was wrong.
    pub fn quiet_revoke(&self, took: Duration) {
        self.latencies.lock().unwrap().push(took);
    }

    /// The figures.
    pub fn summary(&self) -> String {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut latencies = self.latencies.lock().unwrap().clone();
        latencies.sort_unstable();
        let at = |part: f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let place = (latencies.len() as f64 * part) as usize;
            latencies.get(place).copied().unwrap_or_default()
        };
        let faults: Vec<String> =
            self.faults.lock().unwrap().iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        format!(
            "revocations {} (told to repeat {}, cancelled or undecided {})\n\
             checks after revocation: refused {}, undecided {}, VALID {}\n\
             checks before: VALID {}, undecided {}\n\
             faults: {}\n\
             Revoke without faults: {} calls, median {:?}, p99 {:?}",
            count(&self.revocations),
            count(&self.pending),
            count(&self.unanswered),
            count(&self.refused_after),
            count(&self.undecided_after),
            self.violations.lock().unwrap().len(),
            count(&self.valid_before),
            count(&self.undecided_before),
            faults.join(", "),
            latencies.len(),
            at(0.5),
            at(0.99),
        )
    }
}
