//! Drives one connection.

use std::{
    future::{Future as _, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Connection, SendResponse},
};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::yield_now,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    backpressure::Backpressure,
    handler::StreamHandler,
    keepalive::{Keepalive, Liveness},
    options::{CONNECTION_WINDOW_BYTES, ConnectionOptions, STREAM_WINDOW_BYTES, h2_builder},
    spinning::Spinning,
};
use crate::transport::listener::AGE_GRACE;

/// The most requests that are accepted before any of them is answered: their responses share one write.
const MAX_BATCH: usize = 32;
/// The fewest, where more of them arrive: each write costs a system call.
const MIN_BATCH: usize = 4;

/// Serves a connection until one of these happens:
///
/// - The client does not complete the HTTP/2 handshake in time, or does not speak HTTP/2.
/// - The client closes the connection, or reading or writing fails.
/// - The client does not answer a keepalive ping in time.
/// - Between two pings, no request was made, and no call was ever authenticated.
/// - All requests are answered after `shutdown` was cancelled, or after the connection reached its maximum age. From then
///   on a GOAWAY frame asks the client to send new requests elsewhere.
/// - The grace period that follows the maximum age is over.
///
/// How long a drain may take after `shutdown` is bounded by the caller.
pub(crate) async fn serve<I>(io: I, handler: &impl StreamHandler, options: ConnectionOptions)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let io = Backpressure::new(io, handler, Arc::clone(&options.turns));
    let handshake = h2_builder(options.max_streams).handshake(io);
    // Without HTTP/2 there is no way to tell the client what is wrong.
    let Ok(Ok(connection)) = timeout(options.timeouts.preface, handshake).await else { return };
    let mut driver = Driver::new(connection, handler, options);
    poll_fn(|cx| driver.poll(cx)).await;
}

/// The state of one connection. [`Self::poll`] has the steps of one poll.
#[expect(clippy::struct_excessive_bools, reason = "independent facts of one connection")]
struct Driver<'a, I, H> {
    connection: Connection<I, Bytes>,
    handler: &'a H,
    keepalive: Option<Keepalive>,
    /// Until the maximum age; in the grace period, until its end.
    age_timer: Option<Pin<Box<Sleep>>>,
    in_grace: bool,
    shutdown: CancellationToken,
    shutdown_requested: Pin<Box<WaitForCancellationFutureOwned>>,
    /// A GOAWAY frame was sent.
    draining: bool,
    /// Requests of this poll that are not given to the handler yet.
    accepted: Vec<(Request<RecvStream>, SendResponse<Bytes>)>,
    /// Requests of this poll.
    arrived: usize,
    /// Requests of the previous poll that had any. Zero: accept until none is left.
    expected: usize,
    spinning: Spinning,
    /// A request was accepted since the last keepalive ping.
    used: bool,
    /// The client has the windows of an authenticated caller.
    widened: bool,
}

impl<'a, I, H> Driver<'a, I, H>
where
    I: AsyncRead + AsyncWrite + Unpin,
    H: StreamHandler,
{
    fn new(mut connection: Connection<I, Bytes>, handler: &'a H, options: ConnectionOptions) -> Self {
        let ConnectionOptions { timeouts, max_streams: _, max_age, shutdown, polls, turns: _ } = options;
        Self {
            keepalive: connection.ping_pong().map(|pings| Keepalive::new(pings, timeouts)),
            connection,
            handler,
            age_timer: max_age.map(|age| Box::pin(sleep(age))),
            in_grace: false,
            shutdown_requested: Box::pin(shutdown.clone().cancelled_owned()),
            shutdown,
            draining: false,
            accepted: Vec::new(),
            arrived: 0,
            expected: 1,
            spinning: Spinning::new(polls, std::time::Instant::now()),
            used: false,
            widened: false,
        }
    }

    /// Ready when the connection is to be dropped.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.spinning.begin(std::time::Instant::now());
        self.arrived = 0;
        let result = self.poll_steps(cx);
        let now = std::time::Instant::now();
        self.spinning.end(now, self.arrived);
        self.used |= self.arrived > 0;
        if result.is_pending() && self.spinning.should_spin(now) {
            // Wakes this task after the thread has polled its sockets once.
            let _ = pin!(yield_now()).poll(cx);
        }
        result
    }

    fn poll_steps(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_grace_over(cx) {
            return Poll::Ready(());
        }
        self.drain_if_requested(cx);
        if !self.widened && self.handler.is_authenticated() {
            self.widen();
        }
        match self.keepalive.as_mut().map_or(Liveness::Unchanged, |keepalive| keepalive.poll(cx)) {
            Liveness::Unchanged => {}
            Liveness::Lost => return Poll::Ready(()),
            Liveness::Pinged => {
                if !std::mem::take(&mut self.used) && !self.handler.keeps_idle() {
                    self.shutdown.cancel();
                    self.drain_if_requested(cx);
                }
            }
        }
        loop {
            if self.poll_accept(cx).is_ready() {
                return Poll::Ready(());
            }
            if self.accepted.is_empty() {
                self.expected = if self.arrived > 0 { self.arrived } else { self.expected.max(1) };
                return Poll::Pending;
            }
            for (request, respond) in self.accepted.drain(..) {
                self.handler.handle(request, respond, cx);
            }
            if self.defer_lone_response(cx) {
                return Poll::Pending;
            }
        }
    }

    /// Starts a graceful shutdown at the maximum age. Returns whether the grace period after it is over.
    fn poll_grace_over(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some(timer) = &mut self.age_timer
            && timer.as_mut().poll(cx).is_ready()
        {
            if self.in_grace {
                return true;
            }
            self.in_grace = true;
            self.shutdown.cancel();
            timer.as_mut().reset(Instant::now() + AGE_GRACE);
        }
        false
    }

    /// Informs the client once that no new request is accepted.
    fn drain_if_requested(&mut self, cx: &mut Context<'_>) {
        if !self.draining && self.shutdown_requested.as_mut().poll(cx).is_ready() {
            self.draining = true;
            self.connection.graceful_shutdown();
            if let Some(grace) = self.handler.grace() {
                self.in_grace = true;
                self.age_timer = Some(Box::pin(sleep(grace)));
                // The next poll starts the timer.
                cx.waker().wake_by_ref();
            }
        }
    }

    /// Gives the client the windows of an authenticated caller.
    fn widen(&mut self) {
        self.connection.set_target_window_size(CONNECTION_WINDOW_BYTES);
        // This fails until the client has acknowledged the first settings; a later poll tries again.
        self.widened = self.connection.set_initial_window_size(STREAM_WINDOW_BYTES).is_ok();
    }

    /// Accepts requests until none is pending, the batch is full, or as many have arrived as in the previous poll. To
    /// accept once more would cost a system call and mostly find none; the next poll flushes the responses instead.
    /// Ready: the connection is closed.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let batch = batch(self.spinning.is_alone(), self.expected);
        while self.accepted.len() < batch {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok(request))) => {
                    self.accepted.push(request);
                    self.arrived += 1;
                    if self.arrived == self.expected {
                        break;
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }

    /// Leaves the response to a lone request unsent until the other connections of this thread were polled: the writes
    /// then follow each other directly. To wake a client's process costs as much as to answer it, and a process that is
    /// still busy with the first response needs no waking for the next.
    fn defer_lone_response(&mut self, cx: &mut Context<'_>) -> bool {
        if self.arrived != 1 || self.expected != 1 {
            return false;
        }
        cx.waker().wake_by_ref();
        // The next poll accepts until none is left: otherwise a burst would be accepted one request at a time.
        self.expected = 0;
        true
    }
}

/// How many requests are answered by one write. On a connection that has the thread to itself half of a burst, so that the
/// client works on the first half while the second is answered: otherwise each would wait for the other. Several
/// connections keep the thread busy without that, and each write would take time from the others.
fn batch(alone: bool, expected: usize) -> usize {
    if alone { (expected / 2).clamp(MIN_BATCH, MAX_BATCH) } else { MAX_BATCH }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use http::Response;
    use tokio::io::{AsyncReadExt as _, ReadBuf, duplex};

    use super::{super::options::Timeouts, *};

    /// Answers each request at once, and counts them.
    struct Counting {
        count: AtomicUsize,
        keeps_idle: bool,
    }

    impl Default for Counting {
        fn default() -> Self {
            Self { count: AtomicUsize::new(0), keeps_idle: true }
        }
    }

    impl StreamHandler for Counting {
        fn handle(&self, _: Request<RecvStream>, mut respond: SendResponse<Bytes>, _: &mut Context<'_>) {
            self.count.fetch_add(1, Ordering::Relaxed);
            respond.send_response(Response::new(()), true).unwrap();
        }

        fn is_authenticated(&self) -> bool {
            true
        }

        fn keeps_idle(&self) -> bool {
            self.keeps_idle
        }

        fn grace(&self) -> Option<Duration> {
            None
        }
    }

    const SHORT: Duration = Duration::from_millis(50);
    /// Far longer than any of these tests takes.
    const LONG: Duration = Duration::from_secs(10);
    const LONG_TIMEOUTS: Timeouts = Timeouts { preface: LONG, keepalive: LONG, pong: LONG };

    fn options(timeouts: Timeouts) -> ConnectionOptions {
        let shutdown = CancellationToken::new();
        ConnectionOptions {
            timeouts,
            max_streams: 100,
            max_age: None,
            shutdown,
            polls: Arc::default(),
            turns: Arc::default(),
        }
    }

    #[test]
    fn a_batch_is_half_of_a_burst_for_a_connection_that_is_alone() {
        assert_eq!([0, 1, 8, 16, 64, 1_000].map(|expected| batch(true, expected)), [4, 4, 4, 8, 32, 32]);
        assert_eq!([0, 1, 8, 16, 64, 1_000].map(|expected| batch(false, expected)), [32; 6]);
    }

    /// Records the most requests that were handled between two writes.
    struct Writes<I> {
        io: I,
        handler: Arc<Counting>,
        before: usize,
        most: Arc<AtomicUsize>,
    }

    impl<I: AsyncRead + Unpin> AsyncRead for Writes<I> {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_read(cx, buf)
        }
    }

    impl<I: AsyncWrite + Unpin> AsyncWrite for Writes<I> {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let handled = self.handler.count.load(Ordering::Relaxed);
            self.most.fetch_max(handled - self.before, Ordering::Relaxed);
            self.before = handled;
            Pin::new(&mut self.io).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn a_connection_with_a_thread_of_its_own_has_half_of_a_burst_answered_at_once() {
        let (near, io) = duplex(1 << 16);
        let (handler, most) = (Arc::new(Counting::default()), Arc::<AtomicUsize>::default());
        let writes = Writes { io, handler: Arc::clone(&handler), before: 0, most: Arc::clone(&most) };
        let server = Arc::clone(&handler);
        tokio::spawn(async move { serve(writes, &*server, options(LONG_TIMEOUTS)).await });
        let (mut sender, client) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(client);
        for _ in 0..3 {
            let mut request = || sender.send_request(Request::get("http://x/").body(()).unwrap(), true).unwrap().0;
            let sent: Vec<_> = (0..8).map(|_| request()).collect();
            futures::future::try_join_all(sent).await.unwrap();
        }
        assert_eq!((handler.count.load(Ordering::Relaxed), most.load(Ordering::Relaxed)), (24, 4));
    }

    #[tokio::test]
    async fn a_client_without_a_preface_is_disconnected() {
        let (_silent, io) = duplex(1 << 16);
        let timeouts = Timeouts { preface: SHORT, ..LONG_TIMEOUTS };
        timeout(LONG / 2, serve(io, &Counting::default(), options(timeouts))).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_answers_no_ping_is_disconnected() {
        let (near, io) = duplex(1 << 16);
        let timeouts = Timeouts { keepalive: SHORT, pong: SHORT, ..LONG_TIMEOUTS };
        let serving = tokio::spawn(async move {
            serve(io, &Counting::default(), options(timeouts)).await;
        });
        let (_sender, mut connection) = h2::client::handshake(near).await.unwrap();
        // The client exchanges settings; from then on it reads and answers nothing, and keeps its end open.
        let _ = timeout(SHORT / 2, &mut connection).await;
        timeout(LONG / 2, serving).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_unauthenticated_client_without_requests_is_disconnected_though_it_answers_pings() {
        let (near, io) = duplex(1 << 16);
        let client = tokio::spawn(async {
            let (sender, connection) = h2::client::handshake(near).await.unwrap();
            let _ = connection.await;
            drop(sender);
        });
        let handler = Counting { keeps_idle: false, ..Counting::default() };
        let timeouts = Timeouts { keepalive: SHORT, ..LONG_TIMEOUTS };
        timeout(LONG / 2, serve(io, &handler, options(timeouts))).await.unwrap();
        timeout(LONG, client).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_answers_pings_stays_connected_and_is_served() {
        let (near, io) = duplex(1 << 16);
        let handler = Counting::default();
        let options = options(Timeouts { keepalive: SHORT, ..LONG_TIMEOUTS });
        let shutdown = options.shutdown.clone();
        let client = async {
            let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
            tokio::spawn(connection);
            // Idle for many keepalive intervals, then single calls and bursts.
            sleep(SHORT * 10).await;
            for burst in [1, 20, 1, 1, 3] {
                let call = |sender: &mut h2::client::SendRequest<Bytes>| {
                    sender.send_request(Request::post("http://x/").body(()).unwrap(), true).unwrap().0
                };
                let responses: Vec<_> = (0..burst).map(|_| call(&mut sender)).collect();
                for response in responses {
                    timeout(LONG, response).await.unwrap().unwrap();
                }
            }
            shutdown.cancel();
        };
        tokio::join!(serve(io, &handler, options), client);
        assert_eq!(handler.count.into_inner(), 26);
    }

    #[tokio::test]
    async fn a_connection_sends_goaway_at_its_maximum_age() {
        let (mut near, io) = duplex(1 << 16);
        let serving = tokio::spawn(async move {
            serve(io, &Counting::default(), ConnectionOptions { max_age: Some(SHORT), ..options(LONG_TIMEOUTS) }).await;
        });
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        tokio::io::AsyncWriteExt::write_all(&mut near, preface).await.unwrap();
        // Reads frames until one of type GOAWAY.
        let goaway = async {
            loop {
                let mut head = [0; 9];
                near.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                near.read_exact(&mut vec![0; length]).await.unwrap();
                if head[3] == 7 {
                    break;
                }
            }
        };
        timeout(LONG, goaway).await.unwrap();
        drop(near);
        timeout(LONG, serving).await.unwrap().unwrap();
    }
}
