//! Every metric of the service but those of webhooks and of attached clients: names, help texts and handles.

use std::{sync::Arc, time::Duration};

use metrics::{Counter, Gauge, Histogram, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::{
    attach::{AttachMetrics, AttachSnapshot},
    log_queue,
    webhooks::{self, WebhookMetrics},
};
use crate::domain::{
    keyspace::{KeyspaceIndex, Registry},
    route::GatewayKind,
    verdict::VerdictCode,
};

/// Verdicts by `keyspace` and `code`.
const VERDICTS: &str = "keyward_verify_verdicts_total";
/// Verifies that ended without a verdict.
const UNDECIDED: &str = "keyward_verify_undecided_total";
/// Seconds from a Verify's start to its verdict.
const VERIFY_SECONDS: &str = "keyward_verify_seconds";
/// Management and REST calls by `call` and `outcome`.
const CALLS: &str = "keyward_calls_total";
/// Invalid credentials by `outcome`: answered 401 (`refused`) or 429 (`limited`).
const FAILED_AUTHENTICATIONS: &str = "keyward_failed_authentications_total";
/// Seconds that a Revoke waited until no replica could answer from an older state.
const REVOKE_WAIT_SECONDS: &str = "keyward_revoke_wait_seconds";
/// Database connections by `state` (`open`, `idle`).
const POOL: &str = "keyward_database_connections";
/// Rows of the database that could not be read and were skipped.
const UNREADABLE_ROWS: &str = "keyward_unreadable_rows_total";
/// Keys in the cache.
const CACHED_KEYS: &str = "keyward_cached_keys";
/// Bytes used by cached keys.
const CACHED_BYTES: &str = "keyward_cached_bytes";
/// Uses of keys that were lost because too many keys waited for a flush.
const USES_DROPPED: &str = "keyward_uses_dropped_total";
/// Remaining seconds of the lease, for which the cache may still answer.
const LEASE_SECONDS: &str = "keyward_lease_seconds";
/// Subjects whose rate limits are in memory.
const LIMITED_SUBJECTS: &str = "keyward_limited_subjects";
/// 1 while limits are shared with other replicas, 0 while the shared store is unavailable.
const LIMITS_SHARED: &str = "keyward_rate_limit_shared";
/// Calls that the shared limiter should have counted and this replica counted alone.
const LIMIT_FALLBACKS: &str = "keyward_rate_limit_fallbacks_total";
const LIMIT_TIMEOUTS: &str = "keyward_rate_limit_timeouts_total";
/// Session issuers whose public keys have never been fetched.
const ISSUERS_WITHOUT_KEYS: &str = "keyward_session_issuers_without_keys";
/// Age of the oldest public keys of an issuer in use, in seconds.
const ISSUER_KEYS_SECONDS: &str = "keyward_session_keys_age_seconds";
/// Failed fetches of issuers' public keys.
const ISSUER_FAILURES: &str = "keyward_session_key_fetch_failures_total";
/// Panics of workers by `worker`.
const WORKER_PANICS: &str = "keyward_worker_panics_total";
/// Log lines that were dropped, because standard error was not read fast enough.
const LOG_LINES_DROPPED: &str = "keyward_log_lines_dropped_total";

/// Maximum value of the gauge of the lease. Where a single process owns the database, the lease has no end.
const MAX_LEASE_GAUGE: i64 = 86_400_000_000;

/// Decisions for gateways.
const GATEWAY_DECISIONS: &str = "keyward_gateway_decisions_total";

/// Histogram buckets in seconds.
const BUCKETS: [f64; 12] = [0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0];

/// The handles of all metrics. Looking a handle up by name is too slow for the hot path, so they are kept.
pub struct Metrics {
    handle: PrometheusHandle,
    recorder: Arc<PrometheusRecorder>,
    verdicts: Vec<[Counter; VerdictCode::ALL.len()]>,
    /// Requests that passed, by keyspace and kind of gateway.
    gateway_allowed: Vec<[Counter; GatewayKind::ALL.len()]>,
    undecided: Counter,
    failed_authentications: [Counter; 2],
    verify_seconds: Histogram,
    /// Duration of Revoke's wait, in seconds.
    pub revoke_wait_seconds: Histogram,
    /// Metrics of webhooks.
    pub webhooks: WebhookMetrics,
    attach: AttachMetrics,
    gauges: Gauges,
}

struct Gauges {
    open: Gauge,
    idle: Gauge,
    unreadable_rows: Counter,
    cached_keys: Gauge,
    cached_bytes: Gauge,
    uses_dropped: Counter,
    lease_seconds: Gauge,
    limited_subjects: Gauge,
    limits_shared: Gauge,
    limit_fallbacks: Counter,
    limit_timeouts: Counter,
    issuers_without_keys: Gauge,
    issuer_keys_seconds: Gauge,
    issuer_failures: Counter,
    log_lines_dropped: Counter,
}

/// The values of all gauges at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct GaugeSnapshot {
    /// Number of open database connections.
    pub open: u32,
    /// Number of idle database connections.
    pub idle: u32,
    /// Number of database rows that could not be read.
    pub unreadable_rows: u64,
    /// Number of cached keys.
    pub cached_keys: usize,
    /// Bytes used by cached keys.
    pub cached_bytes: u64,
    /// Number of lost uses.
    pub uses_dropped: u64,
    /// Remaining microseconds of the lease.
    pub lease_micros: i64,
    /// Number of subjects whose rate limits are in memory.
    pub limited_subjects: usize,
    /// Whether limits are currently shared; `None` if no shared limiter is configured.
    pub limits_shared: Option<bool>,
    /// Number of calls that this replica counted alone although limits should be shared.
    pub limit_fallbacks: u64,
    /// Number of calls that the shared limiter did not answer in time while it was available.
    pub limit_timeouts: u64,
    /// Number of session issuers without public keys; `None` if no issuer is configured.
    pub issuers_without_keys: Option<usize>,
    /// Age of the oldest issuer's public keys in microseconds; `None` if no issuer is configured.
    pub issuer_keys_micros: Option<i64>,
    /// Number of failed fetches of issuers' public keys.
    pub issuer_failures: u64,
    /// Attached clients.
    pub attach: AttachSnapshot,
}

impl Metrics {
    /// Registers all metrics, with the verdicts of these keyspaces.
    #[expect(clippy::expect_used, reason = "the buckets are constants, so a unit test would fail first")]
    pub fn new(registry: &Registry) -> Self {
        let delivery = Matcher::Full(webhooks::DELIVERY_SECONDS.to_owned());
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("seconds".to_owned()), &BUCKETS)
            .and_then(|builder| builder.set_buckets_for_metric(delivery, &webhooks::DELIVERY_BUCKETS));
        let recorder = Arc::new(builder.expect("the list of buckets is not empty").build_recorder());
        metrics::with_local_recorder(&*Arc::clone(&recorder), || {
            describe();
            let names = || registry.all().iter().map(|keyspace| keyspace.name.as_str());
            // The last row counts secrets that belong to no keyspace.
            let verdicts = names().chain([""]).map(|name| {
                VerdictCode::ALL
                    .map(|code| metrics::counter!(VERDICTS, "keyspace" => name.to_owned(), "code" => code.name()))
            });
            let gateway_allowed = names().map(|name| GatewayKind::ALL.map(|kind| gateway_counter(name, kind, "VALID")));
            Self {
                handle: recorder.handle(),
                recorder,
                verdicts: verdicts.collect(),
                gateway_allowed: gateway_allowed.collect(),
                undecided: metrics::counter!(UNDECIDED),
                failed_authentications: ["refused", "limited"]
                    .map(|outcome| metrics::counter!(FAILED_AUTHENTICATIONS, "outcome" => outcome)),
                verify_seconds: metrics::histogram!(VERIFY_SECONDS),
                revoke_wait_seconds: metrics::histogram!(REVOKE_WAIT_SECONDS),
                webhooks: WebhookMetrics::new(),
                attach: AttachMetrics::new(),
                gauges: Gauges {
                    open: metrics::gauge!(POOL, "state" => "open"),
                    idle: metrics::gauge!(POOL, "state" => "idle"),
                    unreadable_rows: metrics::counter!(UNREADABLE_ROWS),
                    cached_keys: metrics::gauge!(CACHED_KEYS),
                    cached_bytes: metrics::gauge!(CACHED_BYTES),
                    uses_dropped: metrics::counter!(USES_DROPPED),
                    lease_seconds: metrics::gauge!(LEASE_SECONDS),
                    limited_subjects: metrics::gauge!(LIMITED_SUBJECTS),
                    limits_shared: metrics::gauge!(LIMITS_SHARED),
                    limit_fallbacks: metrics::counter!(LIMIT_FALLBACKS),
                    limit_timeouts: metrics::counter!(LIMIT_TIMEOUTS),
                    issuers_without_keys: metrics::gauge!(ISSUERS_WITHOUT_KEYS),
                    issuer_keys_seconds: metrics::gauge!(ISSUER_KEYS_SECONDS),
                    issuer_failures: metrics::counter!(ISSUER_FAILURES),
                    log_lines_dropped: metrics::counter!(LOG_LINES_DROPPED),
                },
            }
        })
    }

    /// Counts a verdict, and records its duration.
    pub fn verdict(&self, keyspace: Option<KeyspaceIndex>, code: VerdictCode, took: Duration) {
        let row = keyspace.map_or(self.verdicts.len() - 1, usize::from);
        if let Some(counters) = self.verdicts.get(row) {
            counters[code as usize].increment(1);
        }
        self.verify_seconds.record(took);
    }

    /// The verdicts since the start, by code; only codes that occurred.
    pub(crate) fn verdict_totals(&self) -> Vec<(VerdictCode, u64)> {
        let text = self.handle.render();
        let lines = text.lines().filter_map(|line| line.strip_prefix(VERDICTS)?.split_once("code=\""));
        let mut totals = VerdictCode::ALL.map(|code| (code, 0_u64));
        for (_, line) in lines {
            let Some((code, value)) = line.split_once('"') else { continue };
            let value = value.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok()).unwrap_or_default();
            if let Some((_, total)) = totals.iter_mut().find(|(known, _)| known.name() == code) {
                *total += value;
            }
        }
        totals.into_iter().filter(|(_, total)| *total > 0).collect()
    }

    /// Counts a Verify that ended without a verdict.
    pub(crate) fn undecided(&self) {
        self.undecided.increment(1);
    }

    /// Counts a request that passed a gateway.
    pub(crate) fn gateway_allowed(&self, keyspace: Option<KeyspaceIndex>, kind: GatewayKind) {
        if let Some(counters) = keyspace.and_then(|index| self.gateway_allowed.get(usize::from(index))) {
            counters[kind as usize].increment(1);
        }
    }

    /// Counts a request that a gateway has to refuse, or that could not be decided.
    pub(crate) fn gateway_refused(&self, keyspace: &str, kind: GatewayKind, code: &'static str) {
        metrics::with_local_recorder(&*self.recorder, || gateway_counter(keyspace, kind, code)).increment(1);
    }

    /// Counts a management or REST call.
    pub fn call(&self, call: &'static str, outcome: &'static str) {
        metrics::with_local_recorder(&*self.recorder, || {
            metrics::counter!(CALLS, "call" => call, "outcome" => outcome).increment(1);
        });
    }

    /// Counts the panic of a worker.
    pub(crate) fn worker_panicked(&self, worker: &'static str) {
        metrics::with_local_recorder(&*self.recorder, || {
            metrics::counter!(WORKER_PANICS, "worker" => worker).increment(1);
        });
    }

    /// Renders all metrics in the Prometheus text format, with these gauges.
    pub(crate) fn render(&self, snapshot: GaugeSnapshot) -> String {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; the values stay far below 2^53")]
        {
            self.gauges.open.set(f64::from(snapshot.open));
            self.gauges.idle.set(f64::from(snapshot.idle));
            self.gauges.cached_keys.set(snapshot.cached_keys as f64);
            self.gauges.cached_bytes.set(snapshot.cached_bytes as f64);
            self.gauges.lease_seconds.set(snapshot.lease_micros.min(MAX_LEASE_GAUGE) as f64 / 1e6);
            self.gauges.limited_subjects.set(snapshot.limited_subjects as f64);
            self.gauges.issuers_without_keys.set(snapshot.issuers_without_keys.unwrap_or_default() as f64);
            self.gauges.issuer_keys_seconds.set(snapshot.issuer_keys_micros.unwrap_or_default() as f64 / 1e6);
            self.gauges.limits_shared.set(f64::from(u8::from(snapshot.limits_shared == Some(true))));
        }
        self.attach.set(snapshot.attach);
        self.gauges.limit_fallbacks.absolute(snapshot.limit_fallbacks);
        self.gauges.limit_timeouts.absolute(snapshot.limit_timeouts);
        self.gauges.issuer_failures.absolute(snapshot.issuer_failures);
        self.gauges.unreadable_rows.absolute(snapshot.unreadable_rows);
        self.gauges.uses_dropped.absolute(snapshot.uses_dropped);
        self.gauges.log_lines_dropped.absolute(log_queue::dropped_lines());
        self.handle.render()
    }

    /// Counts an invalid credential; `limited` if it was answered 429.
    pub(crate) fn failed_authentication(&self, limited: bool) {
        self.failed_authentications[usize::from(limited)].increment(1);
    }

    /// Drains the histograms' samples. Without a call every few seconds, their memory grows.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn gateway_counter(keyspace: &str, kind: GatewayKind, code: &'static str) -> Counter {
    metrics::counter!(GATEWAY_DECISIONS, "keyspace" => keyspace.to_owned(), "gateway" => kind.name(), "code" => code)
}

fn describe() {
    metrics::describe_counter!(VERDICTS, "Verdicts by keyspace and code.");
    metrics::describe_counter!(GATEWAY_DECISIONS, "Decisions for gateways by keyspace, kind of gateway and code.");
    metrics::describe_counter!(UNDECIDED, "Verifies that could not be decided.");
    metrics::describe_histogram!(VERIFY_SECONDS, Unit::Seconds, "From a Verify's start to its verdict.");
    metrics::describe_counter!(FAILED_AUTHENTICATIONS, "Credentials that were not good, by outcome.");
    metrics::describe_counter!(CALLS, "Management and REST calls by call and outcome.");
    metrics::describe_histogram!(REVOKE_WAIT_SECONDS, Unit::Seconds, "Wait of a Revoke until every replica has it.");
    metrics::describe_gauge!(POOL, "Database connections by state.");
    metrics::describe_counter!(UNREADABLE_ROWS, "Database rows that could not be read and were skipped.");
    metrics::describe_gauge!(CACHED_KEYS, "Keys in memory.");
    metrics::describe_gauge!(CACHED_BYTES, Unit::Bytes, "Bytes that keys in memory take.");
    metrics::describe_counter!(USES_DROPPED, "Uses that are not stored, since too many waited.");
    metrics::describe_gauge!(LEASE_SECONDS, Unit::Seconds, "How long memory may still answer.");
    metrics::describe_gauge!(LIMITS_SHARED, "Whether limits are shared with other replicas now.");
    metrics::describe_counter!(LIMIT_FALLBACKS, "Spendings that should have been shared and were not.");
    metrics::describe_counter!(LIMIT_TIMEOUTS, "Spendings that Redis did not answer in time while it was available.");
    metrics::describe_gauge!(LIMITED_SUBJECTS, "Subjects whose spent limits are in memory.");
    metrics::describe_gauge!(ISSUERS_WITHOUT_KEYS, "Session issuers whose keys could never be fetched yet.");
    metrics::describe_gauge!(ISSUER_KEYS_SECONDS, Unit::Seconds, "Age of the oldest issuer's keys in use.");
    metrics::describe_counter!(ISSUER_FAILURES, "Fetches of issuers' keys that failed.");
    metrics::describe_counter!(WORKER_PANICS, "Panics of workers, each of which was started again.");
    metrics::describe_counter!(LOG_LINES_DROPPED, "Log lines dropped, since standard error was not read fast enough.");
}
