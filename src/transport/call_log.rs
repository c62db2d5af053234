//! The log line and the counter of each call, the same for both transports.

use std::{net::IpAddr, time::Duration};

use crate::{domain::error::Error, service::Services};

/// What is logged of a call besides its outcome. Unknown parts are empty.
#[derive(Debug, Clone, Default)]
pub struct CallRecord<'a> {
    /// `grpc` or `rest`.
    pub transport: &'static str,
    /// Kind of the caller.
    pub caller: &'static str,
    /// The caller in the form that `created_by` has.
    pub actor: String,
    /// Id of the key that the call is about.
    pub key: String,
    /// Address of the client.
    pub client: Option<IpAddr>,
    /// The request id.
    pub request: &'a str,
}

/// Logs a call once and counts it. Of the request's content, only ids are logged.
pub fn record(service: &Services, call: &'static str, record: &CallRecord<'_>, error: Option<&Error>, took: Duration) {
    let outcome = error.map_or("OK", |error| error.reason);
    service.metrics.call(call, outcome);
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let internal = error.and_then(|error| error.internal.as_deref()).unwrap_or_default();
    let CallRecord { transport, caller, actor, key, client, request } = record;
    // If authentication failed, log the key whose secret was presented.
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
