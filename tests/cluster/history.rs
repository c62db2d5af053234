//! Records checks and Revokes, and detects violations of the promise.

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
    /// The key's id.
    pub id: String,
    /// The key's secret.
    pub secret: String,
    /// When a Revoke first returned OK.
    revoked_at: OnceLock<Instant>,
}

impl Key {
    /// A key that is not revoked.
    pub fn new(id: String, secret: String) -> Self {
        Self { id, secret, revoked_at: OnceLock::new() }
    }

    /// Records that a Revoke returned OK.
    pub fn revoked(&self) {
        let _ = self.revoked_at.set(Instant::now());
    }

    /// Whether a Revoke has returned OK. A check that starts after this returned true must not answer VALID.
    pub fn is_revoked(&self) -> bool {
        self.revoked_at.get().is_some()
    }
}

/// Counters, and every violation.
#[derive(Default)]
pub struct History {
    /// Keys whose Revoke returned OK.
    pub revocations: AtomicU64,
    /// Revokes that were answered with REVOCATION_PENDING.
    pub pending: AtomicU64,
    /// Revokes that ended without OK for another reason: cancelled, cut off, or unavailable.
    pub unanswered: AtomicU64,
    /// Checks by attached clients, which are among all others below.
    pub attached: AtomicU64,
    /// VALID answers to checks that started before the Revoke returned.
    pub valid_before: AtomicU64,
    /// Other answers to checks that started after the Revoke returned.
    pub refused_after: AtomicU64,
    /// Checks that started after the Revoke returned and got no verdict.
    pub undecided_after: AtomicU64,
    /// Checks that started before the Revoke returned and got no verdict.
    pub undecided_before: AtomicU64,
    /// VALID answers to checks that started after the Revoke returned. There must be none.
    pub violations: Mutex<Vec<String>>,
    faults: Mutex<BTreeMap<&'static str, u64>>,
    latencies: Mutex<Vec<Duration>>,
}

impl History {
    /// Records an answer. `revoked` is the result of [`Key::is_revoked`] before the check was sent.
    pub fn checked(&self, replica: usize, key: &Key, revoked: bool, started: Instant, answer: &Result<Code, Status>) {
        let counter = match (revoked, answer) {
            (false, Ok(Code::Valid)) => &self.valid_before,
            (true, Ok(Code::Valid)) => {
                let since = key.revoked_at.get().map(|at| started.duration_since(*at));
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

    /// Counts an injected fault.
    pub fn fault(&self, kind: &'static str) {
        *self.faults.lock().unwrap().entry(kind).or_default() += 1;
    }

    /// Records the duration of a Revoke without faults.
    pub fn quiet_revoke(&self, took: Duration) {
        self.latencies.lock().unwrap().push(took);
    }

    /// The counters as text.
    pub fn summary(&self) -> String {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut latencies = self.latencies.lock().unwrap().clone();
        latencies.sort_unstable();
        let at = |part: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "an index of a list that fits into memory"
            )]
            let index = (latencies.len() as f64 * part) as usize;
            latencies.get(index).copied().unwrap_or_default()
        };
        let faults: Vec<String> =
            self.faults.lock().unwrap().iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        format!(
            "revocations {} (pending {}, cancelled or without a verdict {})\n\
             checks after revocation: refused {}, without a verdict {}, VALID {}\n\
             checks before: VALID {}, without a verdict {}\n\
             checks by attached clients: {}\n\
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
            count(&self.attached),
            faults.join(", "),
            latencies.len(),
            at(0.5),
            at(0.99),
        )
    }
}
