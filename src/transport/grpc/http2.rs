//! One HTTP/2 connection, driven by one task.
//!
//! The h2 crate speaks the protocol. What is driven here, rather than by a server on top of it, is who does the work: a
//! check that memory answers is answered by the task that read it, so it goes out with the next write and costs no task,
//! no wake-up and no second turn. Everything else is given to the services in a task of its own.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{Ping, PingPong, RecvStream, server::SendResponse};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::transport::terms::GRACE;

/// Streams of one connection, at most.
const STREAMS: u32 = 1_024;
/// Calls that a client gave up before they were begun, for each connection: a replica that was paused finds what its
/// clients gave up meanwhile, and must not answer that by closing the connection. Past this, it is an attack.
const RESETS: usize = STREAMS as usize;
/// What a client may send before it is read, for each stream and for all.
const WINDOW: u32 = 1 << 20;
/// A request's headers, at most.
const HEADER_BYTES: u32 = 16 << 10;
/// What is kept of answers that a stream's client does not read.
const SEND_BYTES: usize = 400 << 10;
/// A client has so long to say that it speaks HTTP/2.
const PREFACE: Duration = Duration::from_secs(20);
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What requests are given to.
pub trait Handle {
    /// Answers a request, now or in a task of its own.
    fn handle(&self, request: Request<RecvStream>, respond: SendResponse<Bytes>, cx: &mut Context<'_>);
}

/// Serves a connection until its client goes, or every request is answered after `stop` was cancelled or the connection
/// has reached its age; and that with patience, but not for ever.
pub async fn serve<I>(io: I, handler: &impl Handle, age: Option<Duration>, stop: &CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESETS)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(HEADER_BYTES)
        .max_send_buffer_size(SEND_BYTES);
    // What is no HTTP/2, or went away, has nobody to be told.
    let Ok(Ok(mut connection)) = timeout(PREFACE, builder.handshake(io)).await else { return };
    let mut keepalive = connection.ping_pong().map(Keepalive::new);
    let mut stopping = pin!(stop.cancelled());
    let mut age = age.map(|age| Box::pin(sleep(age)));
    let (mut leaving, mut aged) = (false, false);
    let mut requests = Vec::new();
    let mut expected = 1;
    poll_fn(|cx| {
        if !leaving && stopping.as_mut().poll(cx).is_ready() {
            leaving = true;
            connection.graceful_shutdown();
        }
        if let Some(timer) = &mut age
            && timer.as_mut().poll(cx).is_ready()
        {
            if aged {
                return Poll::Ready(());
            }
            aged = true;
            connection.graceful_shutdown();
            timer.as_mut().reset(Instant::now() + GRACE);
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
        }
        if keepalive.as_mut().is_some_and(|keepalive| keepalive.is_lost(cx)) {
            return Poll::Ready(());
        }
        // First all requests that are there, then their answers, so that these share a write. That there are no more
        // takes another look at the connection to know: where as many have come as the last time, that look is for
        // writing.
        let mut come = 0;
        loop {
            let over = loop {
                match connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok(accepted))) => {
                        requests.push(accepted);
                        come += 1;
                        if come == expected {
                            break false;
                        }
                    }
                    Poll::Ready(_) => break true,
                    Poll::Pending => break false,
                }
            };
            if over {
                return Poll::Ready(());
            }
            if requests.is_empty() {
                if come > 0 {
                    expected = come;
                }
                expected = expected.max(1);
                return Poll::Pending;
            }
            for (request, respond) in requests.drain(..) {
                handler.handle(request, respond, cx);
            }
            if come == 1 && expected == 1 {
                // A lone answer waits while the other connections of this thread have their turn. Then it is written
                // together with theirs: waking a client's process costs as much as answering it, and one that is
                // still busy with the first answer needs no waking for the next.
                cx.waker().wake_by_ref();
                // Whatever comes next is looked for to its end: otherwise a burst that follows would be taken one by one.
                expected = 0;
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// Asks a client now and then whether it is still there.
struct Keepalive {
    pings: PingPong,
    timer: Pin<Box<Sleep>>,
    asked: bool,
}

impl Keepalive {
    fn new(pings: PingPong) -> Self {
        Self { pings, timer: Box::pin(sleep(KEEPALIVE)), asked: false }
    }

    /// Whether the client did not answer in time.
    fn is_lost(&mut self, cx: &mut Context<'_>) -> bool {
        if self.asked {
            match self.pings.poll_pong(cx) {
                Poll::Ready(Ok(_)) => {
                    self.asked = false;
                    self.timer.as_mut().reset(Instant::now() + KEEPALIVE);
                }
                // The connection itself tells why.
                Poll::Ready(Err(_)) => return false,
                Poll::Pending => {}
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.asked || self.pings.send_ping(Ping::opaque()).is_err() {
                return true;
            }
            self.asked = true;
            self.timer.as_mut().reset(Instant::now() + KEEPALIVE_TIMEOUT);
            if self.pings.poll_pong(cx).is_ready() {
                return true;
            }
        }
        false
    }
}
