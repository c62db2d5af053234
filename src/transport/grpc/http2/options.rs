//! Options and limits of a connection.

use std::{sync::Arc, time::Duration};

use h2::server::Builder;
use tokio_util::sync::CancellationToken;

use super::spinning::PollCounter;

/// Open streams of one connection.
const MAX_STREAMS: u32 = 1_024;
/// Streams that the client reset before they were accepted. After a pause of this process, its clients may have given up
/// every open stream; that must not close the connection. More than that is an attack.
const MAX_PENDING_RESETS: usize = MAX_STREAMS as usize;
/// Flow-control windows of one stream and of the whole connection. The second is larger, so that one stream that is not
/// read does not stop the others.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// The header list of one request.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// Response bytes of one stream that are buffered while the client's window is full.
const MAX_SEND_BUFFER_BYTES: usize = 400 << 10;

/// How long a connection waits for its client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// For the HTTP/2 preface and settings.
    pub(crate) preface: Duration,
    /// Between the last pong and the next keepalive ping.
    pub(crate) keepalive: Duration,
    /// For the answer to a ping.
    pub(crate) pong: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { preface: Duration::from_secs(20), keepalive: Duration::from_secs(60), pong: Duration::from_secs(20) }
    }
}

/// The options of one connection.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionOptions {
    /// How long the connection waits for its client.
    pub(crate) timeouts: Timeouts,
    /// The age at which the connection is closed gracefully. None: no limit.
    pub(crate) max_age: Option<Duration>,
    /// Cancelled when the connection is to be closed gracefully. The connection cancels it itself when it reaches its
    /// maximum age, so that long streams on it end, too.
    pub(crate) shutdown: CancellationToken,
    /// Counts the polls of all connections of the thread.
    pub(crate) polls: Arc<PollCounter>,
}

/// An h2 server with this module's limits.
pub(crate) fn h2_builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_send_buffer_size(MAX_SEND_BUFFER_BYTES);
    builder
}
