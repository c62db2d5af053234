//! The options of each listener: its bounds are derived from the settings and from the number of files that the process
//! may open.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::file_limit;
use crate::{
    config::Config,
    transport::{
        accept::{ConnectionLimits, ConnectionTable},
        budget::{Budget, BudgetLimits},
        listener::{ConnectionTimeouts, ListenerOptions},
        tls::Tls,
    },
};

/// Files that are no client's connection: the database, Redis, webhooks, session issuers, logs and threads.
const RESERVED_FILES: u64 = 256;
/// Connections of the listener that serves probes and metrics alone.
const MAX_METRICS_CONNECTIONS: usize = 64;

/// The options of each listener.
pub struct PortOptions {
    pub grpc: ListenerOptions,
    pub http: ListenerOptions,
    /// Always plain text.
    pub metrics: ListenerOptions,
}

impl PortOptions {
    pub fn new(config: &Config, tls: Option<Arc<Tls>>, stop: &CancellationToken) -> Self {
        let (server, files) = (&config.server, file_limit::raise());
        let total = max_connections(server.max_connections, files);
        if total < server.max_connections {
            tracing::warn!(limit = files, max_connections = total, "the limit of open files allows fewer connections");
        }
        let table = |total| {
            let (per_address, proxies) = (server.max_connections_per_address, config.http.trusted_proxies.clone());
            ConnectionTable::new(ConnectionLimits { total, per_address, proxies })
        };
        let memory = server.memory;
        let budget = Budget::new(BudgetLimits {
            authenticated: memory.authenticated,
            anonymous: memory.anonymous,
            address: memory.per_address,
            connection: memory.per_connection,
        });
        let timeouts = ConnectionTimeouts {
            body: server.body_timeout,
            write: server.write_timeout,
            idle: config.http.idle_timeout,
            keepalive: server.keepalive_interval,
        };
        let options = |tls, total| ListenerOptions {
            tls,
            max_age: server.max_connection_age,
            stop: stop.clone(),
            drain: server.drain_timeout,
            connections: table(total),
            budget: budget.clone(),
            timeouts,
            max_streams: server.max_calls_per_connection,
        };
        Self {
            grpc: options(tls.clone(), total),
            http: options(tls, total),
            metrics: options(None, MAX_METRICS_CONNECTIONS),
        }
    }
}

/// The bound of each of the two large listeners: what is configured, or an even share of the files that are left.
fn max_connections(configured: usize, files: Option<u64>) -> usize {
    let reserved = RESERVED_FILES + MAX_METRICS_CONNECTIONS as u64;
    let share = files.map_or(u64::MAX, |files| files.saturating_sub(reserved.min(files / 2)) / 2);
    configured.min(usize::try_from(share).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_to_the_rest_of_the_process() {
        assert_eq!(max_connections(4_096, None), 4_096);
        assert_eq!(max_connections(4_096, Some(1 << 20)), 4_096);
        assert_eq!(max_connections(4_096, Some(1_024)), 352);
        assert_eq!(max_connections(100, Some(1_024)), 100);
        assert_eq!(max_connections(4_096, Some(256)), 64);
    }
}
