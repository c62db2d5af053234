//! Options and limits of a connection.

use std::{sync::Arc, time::Duration};

use h2::server::Builder;
use tokio_util::sync::CancellationToken;

use super::{super::request_body::ANONYMOUS_WINDOW_BYTES, anonymous_turns::AnonymousTurns, spinning::PollCounter};

/// Flow-control windows of one stream and of the whole connection, while no call was authenticated on it. h2 keeps what is
/// sent within them until a call reads it.
pub(super) const ANONYMOUS_CONNECTION_WINDOW_BYTES: u32 = 128 << 10;
/// The windows from then on. The second is larger, so that streams that are not read do not stop the others.
pub(super) const STREAM_WINDOW_BYTES: u32 = 256 << 10;
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// The header list of one request.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// Response bytes of one stream that are buffered while the client's window is full.
const MAX_SEND_BUFFER_BYTES: usize = 400 << 10;

/// How long a connection waits for its client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// For the HTTP/2 preface and settings.
    pub(crate) preface: Duration,
    /// Between the last pong and the next keepalive ping. An unauthenticated connection without a call between
    /// two pings is closed.
    pub(crate) keepalive: Duration,
    /// For the answer to a ping.
    pub(crate) pong: Duration,
}

impl Timeouts {
    /// The timeouts of a listener that pings at this interval.
    pub(crate) fn new(keepalive: Duration) -> Self {
        Self { preface: Duration::from_secs(20), keepalive, pong: Duration::from_secs(20) }
    }
}

/// The options of one connection.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionOptions {
    /// How long the connection waits for its client.
    pub(crate) timeouts: Timeouts,
    /// Open streams. h2 refuses further ones (REFUSED_STREAM) and keeps nothing of them.
    pub(crate) max_streams: u32,
    /// The age at which the connection is closed gracefully. None: no limit.
    pub(crate) max_age: Option<Duration>,
    /// Cancelled when the connection is to be closed gracefully. The connection cancels it itself when it reaches its
    /// maximum age, so that long streams on it end, too.
    pub(crate) shutdown: CancellationToken,
    /// Counts the polls of all connections of the thread.
    pub(crate) polls: Arc<PollCounter>,
    /// The turns of the unauthenticated connections of the thread.
    pub(crate) turns: Arc<AnonymousTurns>,
}

/// An h2 server with this module's limits.
///
/// The client may have reset as many streams as it may open before they were accepted: after a pause of this process, its
/// clients may have given up every open stream, and that must not close the connection. More than that is an attack.
#[expect(clippy::cast_possible_truncation, reason = "a few KiB")]
pub(super) fn h2_builder(max_streams: u32) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(max_streams)
        .max_pending_accept_reset_streams(max_streams as usize)
        .initial_window_size(ANONYMOUS_WINDOW_BYTES as u32)
        .initial_connection_window_size(ANONYMOUS_CONNECTION_WINDOW_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_send_buffer_size(MAX_SEND_BUFFER_BYTES);
    builder
}
