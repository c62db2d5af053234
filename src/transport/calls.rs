//! What both transports do around a call: deadlines, bearer tokens, and the one log line.

use std::{net::IpAddr, time::Duration};

use tokio::time::Instant;

use crate::{domain::error::Error, service::Service};

/// How long a call may take whose caller names no deadline.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// When to stop, a little before the caller does: so the answer can still say why.
pub fn deadline(timeout: Option<Duration>) -> Instant {
    deadline_after(Instant::now(), timeout)
}

/// The same for a call that arrived a while ago.
pub fn deadline_after(arrived: Instant, timeout: Option<Duration>) -> Instant {
    let timeout = timeout.unwrap_or(PATIENCE).min(Duration::from_secs(3_600));
    arrived + timeout.saturating_sub((timeout / 10).min(Duration::from_millis(100)))
}

/// The token of an `Authorization` value; none for another scheme.
pub fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Writes a call's one line and counts it. Nothing of the request's content goes into the line but ids.
pub fn record(service: &Service, call: &'static str, line: &Line<'_>, error: Option<&Error>, took: Duration) {
    let outcome = error.map_or("OK", |error| error.reason);
    service.metrics.call(call, outcome);
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let internal = error.and_then(|error| error.internal.as_deref()).unwrap_or_default();
    let Line { transport, caller, actor, key, client, request } = line;
    // Of a caller that was refused, the key whose secret it has.
    let key = match error.and_then(|error| error.presented) {
        Some(presented) if key.is_empty() => &presented.to_string(),
        _ => key,
    };
    let client = client.map(|client| client.to_string()).unwrap_or_default();
    if internal.is_empty() {
        tracing::info!(call, transport, outcome, caller, actor, key, client, request, duration_us = micros, "call");
    } else {
        tracing::warn!(
            call,
            transport,
            outcome,
            caller,
            actor,
            key,
            client,
            request,
            duration_us = micros,
            internal,
            "call"
        );
    }
}

/// What a call's line tells besides its outcome; what is not known is empty.
#[derive(Debug, Clone, Default)]
pub struct Line<'a> {
    /// `grpc` or `rest`.
    pub transport: &'static str,
    /// The caller's kind.
    pub caller: &'static str,
    /// The caller, as `created_by` records it.
    pub actor: String,
    /// Id of the key that it is about.
    pub key: String,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The request's id.
    pub request: &'a str,
}
