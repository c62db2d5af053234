//! The requests of a connection are handled by its listener.

use std::{task::Context, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::Request;

/// Handles the requests of a connection.
pub(crate) trait StreamHandler {
    /// Answers a request, at once or in a task that it spawns.
    fn handle(&self, request: Request<RecvStream>, respond: SendResponse<Bytes>, cx: &mut Context<'_>);

    /// Whether a call was authenticated on the connection.
    fn is_authenticated(&self) -> bool;

    /// Whether a connection without requests is kept open.
    fn keeps_idle(&self) -> bool;

    /// How long requests in flight may go on once the connection is to close; `None`: as long as they take.
    fn grace(&self) -> Option<Duration>;
}
