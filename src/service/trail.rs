//! Audit events other than changes of keys: refused credentials, denied calls and sign-ins.
//!
//! Anybody can cause these at any rate. They are therefore summed up by their common fields and written once a period,
//! so that the number of events grows with time, not with the number of calls.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::ids::IdGenerator;
use crate::{
    domain::{
        caller::Caller,
        clock::{Clock, Micros, SECOND},
        error::{Error, ErrorKind},
        event::{EventId, EventType, SYSTEM},
        key::Binding,
    },
    store::{Store, events::AuditRecord},
};

/// Calls about verdicts, which are the product's traffic. What they refuse is in the metrics.
const CHECKS: [&str; 5] = ["verify", "verify_stream", "attach", "check", "forward_auth"];
/// Sums of one kind that are kept in memory in a period. Beyond this, the sum with the lowest count is merged into the
/// sum of all others, so that a frequent caller keeps its own.
const MAX_SUMS: usize = 256;
/// Events of refused credentials in a period. Anonymous clients can cause them, so the bound is low.
const MAX_REFUSAL_EVENTS: usize = 16;
/// Events of each kind that authenticated callers cause, in a period.
const MAX_CALLER_EVENTS: usize = 64;
/// Events that are kept while the database takes none. Older ones are dropped.
const MAX_UNWRITTEN: usize = 512;
/// Events of one call of the store: as many as a slow disk writes within the timeout of a call.
const MAX_BATCH: usize = 64;

/// The fields by which the events of a period are summed up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SumKey {
    actor: String,
    keyspace: String,
    binding: Binding,
    details: BTreeMap<String, String>,
}

/// How often something happened, and when.
#[derive(Debug, Clone, Copy)]
struct Sum {
    count: u64,
    first: Micros,
    last: Micros,
}

impl Sum {
    fn merge(self, other: Self) -> Self {
        Self { count: self.count + other.count, first: self.first.min(other.first), last: self.last.max(other.last) }
    }
}

/// The sums of one kind in the current period.
#[derive(Default)]
struct Sums {
    by_subject: HashMap<SumKey, Sum>,
    /// The sum of all that exceeded [`MAX_SUMS`].
    others: Option<Sum>,
}

impl Sums {
    fn add(&mut self, subject: SumKey, now: Micros) {
        if let Some(sum) = self.by_subject.get_mut(&subject) {
            *sum = Sum { count: sum.count + 1, last: now, ..*sum };
            return;
        }
        if self.by_subject.len() >= MAX_SUMS {
            let smallest = self.by_subject.iter().min_by_key(|(_, sum)| (sum.count, sum.last));
            if let Some(smallest) = smallest.map(|(subject, _)| subject.clone())
                && let Some(sum) = self.by_subject.remove(&smallest)
            {
                self.others = Some(self.others.map_or(sum, |others| others.merge(sum)));
            }
        }
        self.by_subject.insert(subject, Sum { count: 1, first: now, last: now });
    }
}

/// Sums events up, and writes them.
pub struct AuditTrail {
    store: Arc<dyn Store>,
    ids: Arc<IdGenerator>,
    clock: Arc<dyn Clock>,
    current: Mutex<HashMap<EventType, Sums>>,
    unwritten: Mutex<Vec<AuditRecord>>,
}

impl AuditTrail {
    /// An empty trail.
    pub(super) fn new(store: Arc<dyn Store>, ids: Arc<IdGenerator>, clock: Arc<dyn Clock>) -> Self {
        Self { store, ids, clock, current: Mutex::default(), unwritten: Mutex::default() }
    }

    /// Records what a caller did. `details` must hold no secret, and few different values for one caller: events with
    /// different details are not summed up.
    pub fn record<const N: usize>(&self, kind: EventType, caller: &Caller, details: [(&str, String); N]) {
        let (keyspace, binding) = scope(caller);
        self.add(kind, SumKey { actor: caller.actor(), keyspace, binding, details: texts(details) });
    }

    /// Records that a person or an operator signed in: by which `method`, and from where.
    pub fn record_sign_in(&self, caller: &Caller, method: &'static str, client: Option<IpAddr>) {
        let address = client.map(network).unwrap_or_default();
        self.record(EventType::SignedIn, caller, [("method", method.to_owned()), ("address", address)]);
    }

    /// Records that a caller ended its sign-in.
    pub fn record_sign_out(&self, caller: &Caller) {
        self.record(EventType::SignedOut, caller, []);
    }

    /// Records the denial of a call, if the error is one: other errors, and verdicts, are not recorded.
    pub fn record_denial(&self, caller: &Caller, call: &'static str, error: &Error) {
        if error.kind == ErrorKind::PermissionDenied && !CHECKS.contains(&call) {
            let details = [("call", call.to_owned()), ("reason", error.reason.to_owned())];
            self.record(EventType::CallDenied, caller, details);
        }
    }

    /// Records a credential that was refused.
    pub(super) fn record_refusal(&self, client: IpAddr) {
        let (actor, keyspace, binding) = (SYSTEM.to_owned(), String::new(), Binding::default());
        let details = texts([("address", network(client))]);
        self.add(EventType::AuthenticationFailed, SumKey { actor, keyspace, binding, details });
    }

    fn add(&self, kind: EventType, subject: SumKey) {
        let now = self.clock.wall();
        self.current.lock().entry(kind).or_default().add(subject, now);
    }

    /// Writes an event for each sum of the period, the largest ones first, and begins the next period. Sums beyond the
    /// bound are written as one event. Events that cannot be written are kept for the next flush.
    pub async fn flush(&self) {
        let ended = std::mem::take(&mut *self.current.lock());
        let records = {
            let mut unwritten = self.unwritten.lock();
            for (kind, sums) in ended {
                unwritten.extend(self.summed_up(kind, sums));
            }
            let excess = unwritten.len().saturating_sub(MAX_UNWRITTEN);
            if excess > 0 {
                unwritten.drain(..excess);
                tracing::error!(events = excess, "audit events that could not be written are lost");
            }
            unwritten.clone()
        };
        for batch in records.chunks(MAX_BATCH) {
            if let Err(error) = self.store.record_events(batch.to_vec()).await {
                let events = self.unwritten.lock().len();
                tracing::warn!(%error, events, "audit events could not be written");
                return;
            }
            // Remove them only now, so that events of a flush that the stop interrupts are reported as lost.
            let written: HashSet<EventId> = batch.iter().map(|record| record.id).collect();
            self.unwritten.lock().retain(|record| !written.contains(&record.id));
        }
    }

    /// Reports the events that were never written. For the end of a process, after its last flush.
    pub fn report_lost(&self) {
        let ended = std::mem::take(&mut *self.current.lock());
        let unsummed: usize = ended.into_iter().map(|(kind, sums)| self.summed_up(kind, sums).len()).sum();
        let lost = self.unwritten.lock().len() + unsummed;
        if lost > 0 {
            tracing::error!(events = lost, "audit events are lost: the database did not take them before the stop");
        }
    }

    fn summed_up(&self, kind: EventType, sums: Sums) -> Vec<AuditRecord> {
        let max = if kind == EventType::AuthenticationFailed { MAX_REFUSAL_EVENTS } else { MAX_CALLER_EVENTS };
        let Sums { by_subject, others } = sums;
        let mut largest: Vec<(SumKey, Sum)> = by_subject.into_iter().collect();
        largest.sort_unstable_by(|(_, one), (_, other)| other.count.cmp(&one.count).then(one.first.cmp(&other.first)));
        // Reserve one event for the sums beyond the bound.
        let fits = largest.len() <= max && others.is_none();
        let past = if fits { Vec::new() } else { largest.split_off(largest.len().min(max - 1)) };
        let rest = past.into_iter().map(|(_, sum)| sum).chain(others).reduce(Sum::merge);
        let no_subject = || SumKey {
            actor: SYSTEM.to_owned(),
            keyspace: String::new(),
            binding: Binding::default(),
            details: texts([("others", "true".to_owned())]),
        };
        let all = largest.into_iter().chain(rest.map(|sum| (no_subject(), sum)));
        all.map(|(subject, sum)| self.event(kind, subject, sum)).collect()
    }

    fn event(&self, kind: EventType, subject: SumKey, sum: Sum) -> AuditRecord {
        let SumKey { actor, keyspace, binding, mut details } = subject;
        let time = |at: Micros| {
            let time = OffsetDateTime::from_unix_timestamp(at.div_euclid(SECOND)).ok();
            time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
        };
        details.extend(texts([("count", sum.count.to_string()), ("first", time(sum.first)), ("last", time(sum.last))]));
        AuditRecord { id: self.ids.event_id(), kind, actor, keyspace, binding, details }
    }
}

/// The keyspace and binding whose managers may see an event of this caller, in addition to operators.
fn scope(caller: &Caller) -> (String, Binding) {
    match caller {
        Caller::Key(key) => (key.keyspace.name.clone(), key.binding.clone()),
        Caller::Session(session) => {
            // No single organization may see events of a person with several keyspaces or organizations: only operators do.
            let ([keyspace], [only]) = (&session.keyspaces[..], &session.organizations[..]) else {
                return Default::default();
            };
            (keyspace.clone(), Binding { organization: only.organization.clone(), ..Binding::default() })
        }
        Caller::Operator { .. } | Caller::Service { .. } | Caller::Anonymous => Default::default(),
    }
}

/// A client's address; of IPv6 the /64 network, since one client usually has all of it.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{}/64", std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

fn texts<const N: usize>(pairs: [(&str, String); N]) -> BTreeMap<String, String> {
    pairs.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests;
