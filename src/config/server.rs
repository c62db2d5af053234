//! `[server]`: addresses, threads, and the lifetime of connections.

use std::{net::SocketAddr, num::NonZero, str::FromStr, thread::available_parallelism, time::Duration};

use super::{
    limit,
    section::Section,
    setting::{Setting, Table},
    size::bytes,
};
use crate::domain::rate_limit::RateLimit;

/// The table.
pub const TABLE: Table = Table {
    name: "server",
    list: false,
    help: "Addresses, threads, and the lifetime of connections.",
    settings: &[
        GRPC_ADDR,
        HTTP_ADDR,
        METRICS_ADDR,
        GRPC_THREADS,
        FAILED_AUTHENTICATIONS,
        CALLS_PER_CALLER,
        INSECURE,
        DUMPABLE,
        MAX_CONNECTION_AGE,
        MAX_CONNECTIONS,
        MAX_CONNECTIONS_PER_ADDRESS,
        MAX_CALLS_PER_CONNECTION,
        KEEPALIVE_INTERVAL,
        BODY_TIMEOUT,
        WRITE_TIMEOUT,
        REQUEST_MEMORY,
        ANONYMOUS_MEMORY,
        ANONYMOUS_MEMORY_PER_ADDRESS,
        ANONYMOUS_MEMORY_PER_CONNECTION,
        DRAIN_TIMEOUT,
        READY_REQUIRES_WRITES,
    ],
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

const CALLS_PER_CALLER: Setting = Setting::new(
    "calls_per_caller",
    "256",
    "Management calls of one caller that may be in flight, 4 to 100000. Further ones are answered 429 or \
     RESOURCE_EXHAUSTED. Of its lists, two are read at a time; the others wait.",
);

const INSECURE: Setting =
    Setting::new("insecure", "false", "Allows plain text on an address that other machines can reach.")
        .variable("KEYWARD_INSECURE")
        .flag("--insecure");

const DUMPABLE: Setting = Setting::new(
    "dumpable",
    "false",
    "Whether a crash may write a core dump, and other processes of the same user may read the memory, in which there are \
     secrets.",
)
.variable("KEYWARD_DUMPABLE");

const MAX_CONNECTION_AGE: Setting = Setting::unset(
    "max_connection_age",
    "`30m` with TLS, `12h` without",
    "\"30m\"",
    "Maximum age of a connection, 1s to 7d; `0s` is unlimited. At that age the connection is closed gracefully (a \
     VerifyStream ends with UNAVAILABLE); 30 seconds later whatever is left of it is cut off.",
);

const MAX_CONNECTIONS: Setting = Setting::new(
    "max_connections",
    "4096",
    "Connections that each listener holds at most, 16 to 1000000; fewer if the process may open fewer files. Past \
     that, a new connection replaces the oldest one on which no call was authenticated.",
);

const MAX_CONNECTIONS_PER_ADDRESS: Setting = Setting::new(
    "max_connections_per_address",
    "1024",
    "Connections that each listener holds at most from one client address (IPv6: each /64), 1 to 1000000. Addresses in \
     `http.trusted_proxies` have no such bound.",
);

const MAX_CALLS_PER_CONNECTION: Setting = Setting::new(
    "max_calls_per_connection",
    "1024",
    "Calls at once on one gRPC connection, 16 to 10000. gRPC clients keep further ones back until an earlier one ends.",
);

const KEEPALIVE_INTERVAL: Setting = Setting::new(
    "keepalive_interval",
    "\"60s\"",
    "Interval of the pings on gRPC connections, 1s to 1h. A client that does not answer within 20 seconds is disconnected, \
     and so is one that makes no call between two pings while no call was ever authenticated on its connection.",
);

const BODY_TIMEOUT: Setting = Setting::new(
    "body_timeout",
    "\"10s\"",
    "How long the body of an HTTP request, the message of a gRPC call or the first message of a stream may take to \
     arrive, 1s to 10m.",
);

const WRITE_TIMEOUT: Setting = Setting::new(
    "write_timeout",
    "\"30s\"",
    "How long a client may take no byte of what is written to it, 1s to 10m. The connection is closed then.",
);

const REQUEST_MEMORY: Setting = Setting::new(
    "request_memory",
    "\"64MiB\"",
    "Memory for requests of authenticated callers while they arrive, 4MiB to 1024GiB. Past it, calls are refused with \
     RESOURCE_EXHAUSTED or 503.",
);

const ANONYMOUS_MEMORY: Setting = Setting::new(
    "anonymous_memory",
    "\"16MiB\"",
    "The same for all requests whose caller is not authenticated, in addition. It also covers what is kept of HTTP/2 \
     connections without an authenticated call; past it, they are closed.",
);

const ANONYMOUS_MEMORY_PER_ADDRESS: Setting = Setting::new(
    "anonymous_memory_per_address",
    "\"8MiB\"",
    "The part of `anonymous_memory` that one client address (IPv6: each /64) may use.",
);

const ANONYMOUS_MEMORY_PER_CONNECTION: Setting = Setting::new(
    "anonymous_memory_per_connection",
    "\"4MiB\"",
    "The part of `anonymous_memory` that one connection may use.",
);

const DRAIN_TIMEOUT: Setting = Setting::new(
    "drain_timeout",
    "\"2s\"",
    "How long calls in flight have to complete at a stop, 100ms to 10m. The process ends at most 3 seconds later, \
     if it is not paused.",
);

const READY_REQUIRES_WRITES: Setting = Setting::new(
    "ready_requires_writes",
    "false",
    "Whether a replica is not ready while the database answers reads and takes no writes. Otherwise it stays ready, and \
     `/readyz` says what is missing.",
);

/// The largest size of each part.
const MAX_MEMORY: u64 = 1 << 40;
/// The smallest size of each part: a body of 1 MiB while its buffer grows, and its headers.
const MIN_MEMORY: u64 = 4 << 20;

/// Without TLS, connections are closed after this time, so that no connection lasts for ever.
const MAX_AGE_WITHOUT_TLS: Duration = Duration::from_hours(12);

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
    /// Invalid credentials that one client address may send before it is answered 429.
    pub failed_authentications: RateLimit,
    /// Whether core dumps are written and other processes may read the memory.
    pub dumpable: bool,
    /// Management calls of one caller that may be in flight.
    pub calls_per_caller: usize,
    /// Connections that each listener holds at most.
    pub max_connections: usize,
    /// Connections that each listener holds at most from one client address.
    pub max_connections_per_address: usize,
    /// Calls at once on one gRPC connection.
    pub max_calls_per_connection: u32,
    /// Interval of the pings on gRPC connections.
    pub keepalive_interval: Duration,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// How long a client may read nothing of what is written to it.
    pub write_timeout: Duration,
    /// Memory for requests while they arrive.
    pub memory: RequestMemory,
    /// How long calls in flight have to complete at a stop.
    pub drain_timeout: Duration,
    /// Whether a replica is not ready while the database accepts no writes.
    pub ready_requires_writes: bool,
}

/// Memory for requests while they arrive, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct RequestMemory {
    /// For authenticated callers.
    pub authenticated: usize,
    /// For all other requests.
    pub anonymous: usize,
    /// For those of one client address.
    pub per_address: usize,
    /// For those of one connection.
    pub per_connection: usize,
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
    let dumpable = section.parsed_boolean(&DUMPABLE, |text| match text {
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
    let calls_per_caller = section.number(&CALLS_PER_CALLER, 4..=100_000);
    let max_connections = section.number(&MAX_CONNECTIONS, 16..=1_000_000);
    let max_connections_per_address = section.number(&MAX_CONNECTIONS_PER_ADDRESS, 1..=1_000_000);
    let timeout = |setting| {
        let bounds = Duration::from_secs(1)..=Duration::from_mins(10);
        section.duration_within(setting, bounds, "must be a length of time from 1s to 10m")
    };
    let max_calls_per_connection = section.number(&MAX_CALLS_PER_CONNECTION, 16..=10_000);
    let bounds = Duration::from_secs(1)..=Duration::from_hours(1);
    let keepalive_interval =
        section.duration_within(&KEEPALIVE_INTERVAL, bounds, "must be a length of time from 1s to 1h");
    let (body_timeout, write_timeout) = (timeout(&BODY_TIMEOUT), timeout(&WRITE_TIMEOUT));
    let memory = request_memory(section);
    let drain_bounds = Duration::from_millis(100)..=Duration::from_mins(10);
    let drain_timeout =
        section.duration_within(&DRAIN_TIMEOUT, drain_bounds, "must be a length of time from 100ms to 10m");
    let ready_requires_writes = section.boolean(&READY_REQUIRES_WRITES);
    Some(Server {
        grpc_addr: grpc?,
        http_addr: http?,
        grpc_threads,
        metrics_addr,
        max_connection_age,
        failed_authentications: failed_authentications?,
        dumpable: dumpable?,
        calls_per_caller: calls_per_caller?,
        max_connections: max_connections?,
        max_connections_per_address: max_connections_per_address?,
        max_calls_per_connection: max_calls_per_connection?,
        keepalive_interval: keepalive_interval?,
        body_timeout: body_timeout?,
        write_timeout: write_timeout?,
        memory: memory?,
        drain_timeout: drain_timeout?,
        ready_requires_writes: ready_requires_writes?,
    })
}

fn request_memory(section: &Section<'_>) -> Option<RequestMemory> {
    let size = |setting| {
        let what = "must be a size from 4MiB to 1024GiB, such as \"16MiB\"";
        section.parsed(setting, |text| {
            let bytes = bytes(text, MIN_MEMORY..=MAX_MEMORY, what)?;
            usize::try_from(bytes).map_err(|_| what.to_owned())
        })
    };
    let (authenticated, anonymous) = (size(&REQUEST_MEMORY), size(&ANONYMOUS_MEMORY));
    let (per_address, per_connection) = (size(&ANONYMOUS_MEMORY_PER_ADDRESS), size(&ANONYMOUS_MEMORY_PER_CONNECTION));
    Some(RequestMemory {
        authenticated: authenticated?,
        anonymous: anonymous?,
        per_address: per_address?,
        per_connection: per_connection?,
    })
}

fn socket_addr(text: &str) -> Result<SocketAddr, String> {
    // The only name that is accepted, because it needs no resolver.
    let text = text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    SocketAddr::from_str(&text).map_err(|_| "must be an address and a port, such as 127.0.0.1:8080".to_owned())
}

fn max_connection_age(section: &Section<'_>, tls: bool) -> Option<Duration> {
    if !section.has(MAX_CONNECTION_AGE.name) {
        return Some(if tls { MAX_AGE_WITH_TLS } else { MAX_AGE_WITHOUT_TLS });
    }
    let age = section.duration(&MAX_CONNECTION_AGE)?;
    if !age.is_zero() && !(Duration::from_secs(1)..=Duration::from_hours(24 * 7)).contains(&age) {
        section.problem(MAX_CONNECTION_AGE.name, "must be from 1s to 7d, or 0s for any age");
    }
    (!age.is_zero()).then_some(age)
}
