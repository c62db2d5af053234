//! Logs and metrics: the subscriber, and the name of every metric.

pub mod webhooks;

use std::{collections::HashMap, time::Duration};

use metrics::{Counter, Gauge, Histogram, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use self::webhooks::WebhookMetrics;
use crate::domain::{
    keyspace::{KeyspaceIndex, Registry},
    verdict::VerdictCode,
};

/// Verdicts by `keyspace` and `code`.
pub const VERDICTS: &str = "keyward_verify_verdicts_total";
/// Verifies that could not be decided.
pub const UNDECIDED: &str = "keyward_verify_undecided_total";
/// Seconds from a Verify's start to its verdict.
pub const VERIFY_SECONDS: &str = "keyward_verify_seconds";
/// Management and REST calls by `call` and `outcome`.
pub const CALLS: &str = "keyward_calls_total";
/// Credentials that were not good, by whether the client was told so (`refused`) or to wait (`limited`).
pub const FAILED_AUTHENTICATIONS: &str = "keyward_failed_authentications_total";
/// Seconds that a Revoke waited until it was certain on every replica.
pub const REVOKE_WAIT_SECONDS: &str = "keyward_revoke_wait_seconds";
/// Database connections by `state` (`open`, `idle`).
pub const POOL: &str = "keyward_database_connections";
/// Keys in memory.
pub const CACHED_KEYS: &str = "keyward_cached_keys";
/// Bytes that keys in memory take.
pub const CACHED_BYTES: &str = "keyward_cached_bytes";
/// Uses of keys that are not written down, since too many waited for that.
pub const USES_DROPPED: &str = "keyward_uses_dropped_total";
/// Seconds for which memory may still answer.
pub const LEASE_SECONDS: &str = "keyward_lease_seconds";
/// Subjects whose spent limits are in memory.
pub const LIMITED_SUBJECTS: &str = "keyward_limited_subjects";
/// 1 while limits are shared with other replicas, 0 while the server for that is away.
pub const LIMITS_SHARED: &str = "keyward_rate_limit_shared";
/// Spendings that should have been shared and were counted by this replica alone.
pub const LIMITS_FALLEN_BACK: &str = "keyward_rate_limit_fallbacks_total";
/// Session issuers whose keys could never be fetched yet.
pub const ISSUERS_WITHOUT_KEYS: &str = "keyward_session_issuers_without_keys";
/// Age of the oldest issuer's keys in use, in seconds.
pub const ISSUER_KEYS_SECONDS: &str = "keyward_session_keys_age_seconds";
/// Fetches of issuers' keys that failed.
pub const ISSUER_FAILURES: &str = "keyward_session_key_fetch_failures_total";

/// Where one process owns the database the lease has no end: shown as a day.
const MOST_LEASE: i64 = 86_400_000_000;

const BUCKETS: [f64; 12] = [0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0];

/// How to log, as `KEYWARD_LOG` and `KEYWARD_LOG_FORMAT` say.
pub struct Logging {
    filter: EnvFilter,
    json: bool,
}

impl Logging {
    /// Reads the two from the environment.
    ///
    /// # Errors
    ///
    /// Every one that cannot be read.
    pub fn read(environment: &HashMap<String, String>) -> Result<Self, Vec<String>> {
        let filter = environment.get("KEYWARD_LOG").map_or("info,sqlx=warn", String::as_str);
        let filter = EnvFilter::try_new(filter).map_err(|error| format!("KEYWARD_LOG: {error}"));
        let json = match environment.get("KEYWARD_LOG_FORMAT").map(String::as_str) {
            Some("json") => Ok(true),
            Some("text") | None => Ok(false),
            Some(_) => Err("KEYWARD_LOG_FORMAT: must be \"text\" or \"json\"".to_owned()),
        };
        match (filter, json) {
            (Ok(filter), Ok(json)) => Ok(Self { filter, json }),
            (filter, json) => Err(filter.err().into_iter().chain(json.err()).collect()),
        }
    }

    /// Starts logging to standard error.
    pub fn start(self) {
        let builder = tracing_subscriber::fmt().with_env_filter(self.filter).with_writer(std::io::stderr);
        if self.json {
            builder.json().flatten_event(true).init();
        } else {
            builder.with_ansi(false).init();
        }
    }
}

/// Every metric, as handles that are looked up once.
pub struct Metrics {
    handle: PrometheusHandle,
    recorder: metrics_exporter_prometheus::PrometheusRecorder,
    verdicts: Vec<[Counter; VerdictCode::ALL.len()]>,
    undecided: Counter,
    failed_authentications: [Counter; 2],
    verify_seconds: Histogram,
    /// Seconds that a Revoke waited.
    pub revoke_wait_seconds: Histogram,
    /// Webhooks.
    pub webhooks: WebhookMetrics,
    gauges: Gauges,
}

struct Gauges {
    open: Gauge,
    idle: Gauge,
    cached_keys: Gauge,
    cached_bytes: Gauge,
    uses_dropped: Counter,
    lease_seconds: Gauge,
    limited_subjects: Gauge,
    limits_shared: Gauge,
    limits_fallen_back: Counter,
    issuers_without_keys: Gauge,
    issuer_keys_seconds: Gauge,
    issuer_failures: Counter,
}

/// What the gauges show.
#[derive(Debug, Clone, Copy, Default)]
pub struct GaugeSnapshot {
    /// Open database connections.
    pub open: u32,
    /// Idle database connections.
    pub idle: u32,
    /// Keys in memory.
    pub cached_keys: usize,
    /// Bytes that they take.
    pub cached_bytes: u64,
    /// Uses that are not written down.
    pub uses_dropped: u64,
    /// Microseconds for which memory may still answer.
    pub lease_micros: i64,
    /// Subjects whose spent limits are in memory.
    pub limited_subjects: usize,
    /// Whether limits are shared with other replicas now; none where they never are.
    pub limits_shared: Option<bool>,
    /// Spendings that should have been shared and were not.
    pub limits_fallen_back: u64,
    /// Session issuers without keys; none where no issuer is trusted.
    pub issuers_without_keys: Option<usize>,
    /// Age of the oldest issuer's keys in microseconds; none where no issuer is trusted.
    pub issuer_keys_micros: Option<i64>,
    /// Fetches of issuers' keys that failed.
    pub issuer_failures: u64,
}

impl Metrics {
    /// Handles for these keyspaces.
    pub fn new(registry: &Registry) -> Self {
        let delivery = Matcher::Full(webhooks::DELIVERY_SECONDS.to_owned());
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("seconds".to_owned()), &BUCKETS)
            .and_then(|builder| builder.set_buckets_for_metric(delivery, &webhooks::DELIVERY_BUCKETS));
        let recorder = builder.expect("the list of buckets is not empty").build_recorder();
        let (verdicts, undecided, failed_authentications, verify_seconds, revoke_wait_seconds, webhooks, gauges) =
            metrics::with_local_recorder(&recorder, || {
                describe();
                // The last row is for secrets of no keyspace.
                let names = registry.all().iter().map(|keyspace| keyspace.name.as_str()).chain([""]);
                let verdicts = names
                    .map(|name| {
                        VerdictCode::ALL.map(
                            |code| metrics::counter!(VERDICTS, "keyspace" => name.to_owned(), "code" => code.name()),
                        )
                    })
                    .collect();
                let gauges = Gauges {
                    open: metrics::gauge!(POOL, "state" => "open"),
                    idle: metrics::gauge!(POOL, "state" => "idle"),
                    cached_keys: metrics::gauge!(CACHED_KEYS),
                    cached_bytes: metrics::gauge!(CACHED_BYTES),
                    uses_dropped: metrics::counter!(USES_DROPPED),
                    lease_seconds: metrics::gauge!(LEASE_SECONDS),
                    limited_subjects: metrics::gauge!(LIMITED_SUBJECTS),
                    limits_shared: metrics::gauge!(LIMITS_SHARED),
                    limits_fallen_back: metrics::counter!(LIMITS_FALLEN_BACK),
                    issuers_without_keys: metrics::gauge!(ISSUERS_WITHOUT_KEYS),
                    issuer_keys_seconds: metrics::gauge!(ISSUER_KEYS_SECONDS),
                    issuer_failures: metrics::counter!(ISSUER_FAILURES),
                };
                let undecided = metrics::counter!(UNDECIDED);
                (
                    verdicts,
                    undecided,
                    ["refused", "limited"]
                        .map(|outcome| metrics::counter!(FAILED_AUTHENTICATIONS, "outcome" => outcome)),
                    metrics::histogram!(VERIFY_SECONDS),
                    metrics::histogram!(REVOKE_WAIT_SECONDS),
                    WebhookMetrics::new(),
                    gauges,
                )
            });
        let handle = recorder.handle();
        Self {
            handle,
            recorder,
            verdicts,
            undecided,
            failed_authentications,
            verify_seconds,
            revoke_wait_seconds,
            webhooks,
            gauges,
        }
    }

    /// Counts a verdict and how long it took.
    pub fn verdict(&self, keyspace: Option<KeyspaceIndex>, code: VerdictCode, took: Duration) {
        let row = keyspace.map_or(self.verdicts.len() - 1, usize::from);
        if let Some(counters) = self.verdicts.get(row) {
            counters[code as usize].increment(1);
        }
        self.verify_seconds.record(took);
    }

    /// Counts a Verify that could not be decided.
    pub fn undecided(&self) {
        self.undecided.increment(1);
    }

    /// Counts a management or REST call.
    pub fn call(&self, call: &'static str, outcome: &'static str) {
        metrics::with_local_recorder(&self.recorder, || {
            metrics::counter!(CALLS, "call" => call, "outcome" => outcome).increment(1);
        });
    }

    /// The Prometheus text, with the gauges as they are now.
    pub fn render(&self, levels: GaugeSnapshot) -> String {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; the levels stay far below 2^53")]
        {
            self.gauges.open.set(f64::from(levels.open));
            self.gauges.idle.set(f64::from(levels.idle));
            self.gauges.cached_keys.set(levels.cached_keys as f64);
            self.gauges.cached_bytes.set(levels.cached_bytes as f64);
            self.gauges.lease_seconds.set(levels.lease_micros.min(MOST_LEASE) as f64 / 1e6);
            self.gauges.limited_subjects.set(levels.limited_subjects as f64);
            self.gauges.issuers_without_keys.set(levels.issuers_without_keys.unwrap_or_default() as f64);
            self.gauges.issuer_keys_seconds.set(levels.issuer_keys_micros.unwrap_or_default() as f64 / 1e6);
            self.gauges.limits_shared.set(f64::from(u8::from(levels.limits_shared == Some(true))));
        }
        self.gauges.limits_fallen_back.absolute(levels.limits_fallen_back);
        self.gauges.issuer_failures.absolute(levels.issuer_failures);
        self.gauges.uses_dropped.absolute(levels.uses_dropped);
        self.handle.render()
    }

    /// Counts a credential that was not good.
    pub fn failed_authentication(&self, limited: bool) {
        self.failed_authentications[usize::from(limited)].increment(1);
    }

    /// Folds what histograms have gathered; without this every few seconds their memory grows.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn describe() {
    metrics::describe_counter!(VERDICTS, "Verdicts by keyspace and code.");
    metrics::describe_counter!(UNDECIDED, "Verifies that could not be decided.");
    metrics::describe_histogram!(VERIFY_SECONDS, Unit::Seconds, "From a Verify's start to its verdict.");
    metrics::describe_counter!(FAILED_AUTHENTICATIONS, "Credentials that were not good, by outcome.");
    metrics::describe_counter!(CALLS, "Management and REST calls by call and outcome.");
    metrics::describe_histogram!(REVOKE_WAIT_SECONDS, Unit::Seconds, "Wait of a Revoke until every replica has it.");
    metrics::describe_gauge!(POOL, "Database connections by state.");
    metrics::describe_gauge!(CACHED_KEYS, "Keys in memory.");
    metrics::describe_gauge!(CACHED_BYTES, Unit::Bytes, "Bytes that keys in memory take.");
    metrics::describe_counter!(USES_DROPPED, "Uses that are not written down, since too many waited.");
    metrics::describe_gauge!(LEASE_SECONDS, Unit::Seconds, "How long memory may still answer.");
    metrics::describe_gauge!(LIMITS_SHARED, "Whether limits are shared with other replicas now.");
    metrics::describe_counter!(LIMITS_FALLEN_BACK, "Spendings that should have been shared and were not.");
    metrics::describe_gauge!(LIMITED_SUBJECTS, "Subjects whose spent limits are in memory.");
    metrics::describe_gauge!(ISSUERS_WITHOUT_KEYS, "Session issuers whose keys could never be fetched yet.");
    metrics::describe_gauge!(ISSUER_KEYS_SECONDS, Unit::Seconds, "Age of the oldest issuer's keys in use.");
    metrics::describe_counter!(ISSUER_FAILURES, "Fetches of issuers' keys that failed.");
}
