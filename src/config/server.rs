//! `[server]`: addresses, threads, and the lifetime of connections.

use std::{net::SocketAddr, num::NonZero, str::FromStr, thread::available_parallelism, time::Duration};

use super::{
    limit,
    section::Section,
    setting::{Setting, Table},
};
use crate::domain::rate_limit::RateLimit;

/// The table.
pub const TABLE: Table = Table {
    name: "server",
    list: false,
    help: "Addresses, threads, and the lifetime of connections.",
    settings: &[GRPC_ADDR, HTTP_ADDR, METRICS_ADDR, GRPC_THREADS, FAILED_AUTHENTICATIONS, INSECURE, MAX_CONNECTION_AGE],
    tables: &[],
};

const GRPC_ADDR: Setting = Setting::new(
    "grpc_addr",
    "\"127.0.0.1:50051\"",
    "Address and port of the gRPC listener. Port 0 lets the system choose one.",
)
.variable("KEYWARD_GRPC_ADDR")
.flag("--grpc-addr");

const HTTP_ADDR: Setting = Setting::new(
    "http_addr",
    "\"127.0.0.1:8080\"",
    "Address and port of the REST listener. Port 0 lets the system choose one.",
)
.variable("KEYWARD_HTTP_ADDR")
.flag("--http-addr");

const METRICS_ADDR: Setting = Setting::unset(
    "metrics_addr",
    "on `server.http_addr`",
    "\"127.0.0.1:9090\"",
    "Serves `/metrics` and the probes on an address of their own, always in plain text.",
)
.variable("KEYWARD_METRICS_ADDR");

const GRPC_THREADS: Setting =
    Setting::unset("grpc_threads", "one for each core", "4", "Threads that serve gRPC connections, 1 to 1024.");

const FAILED_AUTHENTICATIONS: Setting = Setting::new(
    "failed_authentications",
    "{ limit = 300, window = \"60s\" }",
    "Invalid credentials that one client address (IPv6: each /64) may send within a window. Further ones are answered \
     429 or RESOURCE_EXHAUSTED.",
)
.fields(&limit::FIELDS);

const INSECURE: Setting =
    Setting::new("insecure", "false", "Allows plain text on an address that other machines can reach.")
        .variable("KEYWARD_INSECURE")
        .flag("--insecure");

const MAX_CONNECTION_AGE: Setting = Setting::unset(
    "max_connection_age",
    "`30m` with TLS, unlimited without",
    "\"30m\"",
    "Maximum age of a connection, 1s to 7d; `0s` is unlimited. At that age the connection is closed gracefully (a \
     VerifyStream ends with UNAVAILABLE); 30 seconds later whatever is left of it is cut off.",
);

/// With TLS, connections are closed after this time, so that every client sees a new certificate and is checked against
/// a new list of authorities.
const MAX_AGE_WITH_TLS: Duration = Duration::from_mins(30);

/// `[server]`
#[derive(Debug, Clone)]
pub struct Server {
    /// Address of the gRPC listener.
    pub grpc_addr: SocketAddr,
    /// Address of the REST listener.
    pub http_addr: SocketAddr,
    /// Threads that serve gRPC connections, each with its own executor.
    pub grpc_threads: usize,
    /// Address of a listener for `/metrics` and the probes alone, always in plain text. Without it, `http_addr` serves
    /// them.
    pub metrics_addr: Option<SocketAddr>,
    /// Maximum age of a connection; unlimited if absent.
    pub max_connection_age: Option<Duration>,
    /// Invalid credentials that one client address may send before it is told to wait.
    pub failed_authentications: RateLimit,
}

/// Reads the table. `tls`: whether the listeners have a certificate.
pub fn read(section: &Section<'_>, tls: bool) -> Option<Server> {
    let grpc = section.parsed(&GRPC_ADDR, socket_addr);
    let http = section.parsed(&HTTP_ADDR, socket_addr);
    let insecure = section.parsed_boolean(&INSECURE, |text| match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    });
    for (setting, address) in [(&GRPC_ADDR, grpc), (&HTTP_ADDR, http)] {
        let Some(address) = address else { continue };
        if !tls && insecure != Some(true) && !address.ip().to_canonical().is_loopback() {
            let what = format!(
                "{address} can be reached from other machines, and there is no TLS: set tls.cert and tls.key, or allow \
                 plain text by server.insecure = true (--insecure), where the network itself is trusted"
            );
            section.problem_at_origin(setting, &what);
        }
    }
    let grpc_threads = match section.number(&GRPC_THREADS, 1..=1_024) {
        None => available_parallelism().map_or(2, NonZero::get),
        Some(threads) => threads,
    };
    let metrics_addr = section.parsed(&METRICS_ADDR, socket_addr);
    let max_connection_age = max_connection_age(section, tls);
    let failed_authentications = limit::read(section, &FAILED_AUTHENTICATIONS);
    Some(Server {
        grpc_addr: grpc?,
        http_addr: http?,
        grpc_threads,
        metrics_addr,
        max_connection_age,
        failed_authentications: failed_authentications?,
    })
}

fn socket_addr(text: &str) -> Result<SocketAddr, String> {
    // The only name that needs no resolver.
    let text = text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    SocketAddr::from_str(&text).map_err(|_| "must be an address and a port, such as 127.0.0.1:8080".to_owned())
}

fn max_connection_age(section: &Section<'_>, tls: bool) -> Option<Duration> {
    if !section.has(MAX_CONNECTION_AGE.name) {
        return tls.then_some(MAX_AGE_WITH_TLS);
    }
    let age = section.duration(&MAX_CONNECTION_AGE)?;
    if !age.is_zero() && !(Duration::from_secs(1)..=Duration::from_hours(24 * 7)).contains(&age) {
        section.problem(MAX_CONNECTION_AGE.name, "must be from 1s to 7d, or 0s for any age");
    }
    (!age.is_zero()).then_some(age)
}
