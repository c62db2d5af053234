//! `[rate_limit]`: where spent limits are counted.

use std::time::Duration;

use super::{
    section::Section,
    setting::{Setting, Table},
};
use crate::domain::{rate_limit::OnTimeout, server_url};

/// The table.
pub const TABLE: Table = Table {
    name: "rate_limit",
    list: false,
    help: "Where rate limits are counted.",
    settings: &[STORE, INSECURE, BATCH, TIMEOUT, ON_TIMEOUT],
    tables: &[],
};

const STORE: Setting = Setting::new(
    "store",
    "\"memory\"",
    "`memory` counts in each replica alone; `redis://…` shares limits among all replicas (see \
     [rate limits](#rate-limits)).",
)
.variable("KEYWARD_RATE_LIMIT_STORE");

const INSECURE: Setting = Setting::new(
    "insecure",
    "false",
    "Allows a password for `redis://`, without TLS, on another machine: any server that answers there gets it.",
)
.variable("KEYWARD_RATE_LIMIT_INSECURE");

const BATCH: Setting =
    Setting::new("batch", "1", "With Redis: maximum number of permits that one round trip takes, 1 to 10000.");

const TIMEOUT: Setting = Setting::new(
    "timeout",
    "\"50ms\"",
    "With Redis: how long a call waits for its answer while Redis answers others, 1ms to 1s.",
)
.variable("KEYWARD_RATE_LIMIT_TIMEOUT");

const ON_TIMEOUT: Setting = Setting::new(
    "on_timeout",
    "\"refuse\"",
    "With Redis: what happens to a call that waited for longer. `refuse` keeps the limit strict; `admit` may exceed it by \
     such calls.",
)
.variable("KEYWARD_RATE_LIMIT_ON_TIMEOUT");

/// Where spent limits are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RateLimitStore {
    /// In the memory of each replica.
    Memory,
    /// In a Redis or Valkey server that replicas share. The URL may hold a password.
    Redis(String),
}

/// `[rate_limit]`
#[derive(Debug, Clone)]
pub struct RateLimits {
    /// Where spent limits are counted.
    pub store: RateLimitStore,
    /// Maximum number of permits that one round trip takes.
    pub batch: u32,
    /// How long a call to the shared store waits for its answer.
    pub timeout: Duration,
    /// What happens to a call that waited for longer.
    pub on_timeout: OnTimeout,
}

/// Reads the table.
pub fn read(section: &Section<'_>) -> Option<RateLimits> {
    let store = section.parsed(&STORE, store);
    let insecure = section.parsed_boolean(&INSECURE, |text| match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    });
    if let Some(RateLimitStore::Redis(url)) = &store
        && insecure != Some(true)
        && is_remote_without_tls(url)
        && has_password(url)
    {
        let what = "sends a password to another machine without TLS: use rediss:// (or valkeys://), or allow plain text \
                    by rate_limit.insecure = true (KEYWARD_RATE_LIMIT_INSECURE), where the network itself is trusted";
        section.problem_at_origin(&STORE, what);
    }
    let batch = section.number(&BATCH, 1..=10_000);
    let timeout = section.parsed(&TIMEOUT, |text| {
        let timeout = humantime::parse_duration(text).ok();
        timeout
            .filter(|timeout| (Duration::from_millis(1)..=Duration::from_secs(1)).contains(timeout))
            .ok_or_else(|| "must be a length of time from 1ms to 1s".to_owned())
    });
    let on_timeout = section.parsed(&ON_TIMEOUT, |text| match text {
        "refuse" => Ok(OnTimeout::Refuse),
        "admit" => Ok(OnTimeout::Admit),
        _ => Err("must be \"refuse\" or \"admit\"".to_owned()),
    });
    Some(RateLimits { store: store?, batch: batch?, timeout: timeout?, on_timeout: on_timeout? })
}

/// Whether a URL leads to another machine without TLS.
pub fn is_remote_without_tls(url: &str) -> bool {
    url::Url::parse(url).is_ok_and(|url| {
        matches!(url.scheme(), "redis" | "valkey") && !url.host_str().is_none_or(server_url::is_loopback)
    })
}

fn has_password(url: &str) -> bool {
    url::Url::parse(url).is_ok_and(|url| url.password().is_some())
}

fn store(text: &str) -> Result<RateLimitStore, String> {
    if server_url::trimmed(text) == "memory" {
        return Ok(RateLimitStore::Memory);
    }
    let url = server_url::redis(text)?;
    // Parse it with the driver as well, to find what only the driver refuses. Its message could hold the password.
    match redis::Client::open(url) {
        Ok(_) => Ok(RateLimitStore::Redis(url.to_owned())),
        Err(_) => Err("is not a redis:// URL such as redis://user:password@host:6379/0".to_owned()),
    }
}
