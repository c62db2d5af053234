//! `[server]`: addresses, threads, and how long connections live.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use super::{Source, keyspace::rate_limit, reader::Section};
use crate::domain::rate_limit::{DEFAULT_FAILED_AUTHENTICATION_LIMIT, RateLimit};

/// `[server]`
#[derive(Debug, Clone)]
pub struct Server {
    /// gRPC.
    pub grpc_addr: SocketAddr,
    /// REST.
    pub http_addr: SocketAddr,
    /// Threads that serve gRPC connections, each with an executor of its own.
    pub grpc_threads: usize,
    /// `/metrics` and the probes alone, always in plain text; none: they are on `http_addr`.
    pub metrics_addr: Option<SocketAddr>,
    /// How old a connection may get before its client is asked to make another one; none: any age.
    pub max_connection_age: Option<Duration>,
    /// Failed authentications that a client address is forgiven.
    pub failed_authentications: RateLimit,
}

/// Under TLS connections end now and then, so that a new certificate and a new list of authorities reach every client.
const AGE_UNDER_TLS: Duration = Duration::from_mins(30);

/// Reads the section.
pub fn read(section: &Section<'_>, source: &Source<'_>, tls: bool) -> Server {
    let address = |name, variable, flag| {
        source.setting(section, name, variable, flag, |text| {
            // The one name that needs nobody to be asked.
            let text =
                text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
            SocketAddr::from_str(&text).map_err(|_| "must be an address and a port, such as 127.0.0.1:8080".to_owned())
        })
    };
    let (grpc_flag, http_flag) = (source.flags.grpc_addr.as_ref(), source.flags.http_addr.as_ref());
    let grpc = address("grpc_addr", "KEYWARD_GRPC_ADDR", grpc_flag);
    let http = address("http_addr", "KEYWARD_HTTP_ADDR", http_flag);
    let insecure = insecure(section, source);
    for (name, variable, flag, found) in
        [("grpc_addr", "KEYWARD_GRPC_ADDR", grpc_flag, grpc), ("http_addr", "KEYWARD_HTTP_ADDR", http_flag, http)]
    {
        if let Some(found) = found.filter(|found| !tls && !insecure && !found.ip().to_canonical().is_loopback()) {
            let what = format!(
                "{found} can be reached from other machines, and there is no TLS: set tls.cert and tls.key, or allow plain \
                 text by server.insecure = true (--insecure), where the network itself is trusted"
            );
            source.at_setting(section, name, variable, flag, &what);
        }
    }
    Server {
        grpc_addr: grpc.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 50051))),
        http_addr: http.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080))),
        grpc_threads: section
            .number("grpc_threads", 1..=1_024)
            .and_then(|threads| usize::try_from(threads).ok())
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(2, std::num::NonZero::get)),
        metrics_addr: address("metrics_addr", "KEYWARD_METRICS_ADDR", None),
        max_connection_age: max_connection_age(section, tls),
        failed_authentications: rate_limit(section, "failed_authentications")
            .unwrap_or(DEFAULT_FAILED_AUTHENTICATION_LIMIT),
    }
}

/// Whether a plain-text address that other machines reach is meant.
fn insecure(section: &Section<'_>, source: &Source<'_>) -> bool {
    let in_file = section.flag("insecure");
    let variable = source.variable("KEYWARD_INSECURE", |text| match text {
        "true" | "1" => Ok(true),
        "false" | "0" | "" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    });
    source.flags.insecure || variable.or(in_file).unwrap_or(false)
}

fn max_connection_age(section: &Section<'_>, tls: bool) -> Option<Duration> {
    let Some(found) = section.duration("max_connection_age") else { return tls.then_some(AGE_UNDER_TLS) };
    if found.value.is_zero() {
        return None;
    }
    if !(Duration::from_secs(1)..=Duration::from_hours(24 * 7)).contains(&found.value) {
        section.problem("max_connection_age", "must be from 1s to 7d, or 0s for any age");
    }
    Some(found.value)
}
