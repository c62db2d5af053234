//! One HTTP/2 connection, driven by one task.
//!
//! The h2 crate speaks the protocol. What is driven here, rather than by a server on top of it, is who does the work: a
//! check that memory answers is answered by the task that read it, so it goes out with the next write and costs no task,
//! no wake-up and no second turn. Everything else is given to the services in a task of its own.

use std::{
    future::{Future as _, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{Ping, PingPong, RecvStream, server::SendResponse};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::yield_now,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::pace::{Pace, Turns};
use crate::transport::listener::AGE_GRACE;

/// Streams of one connection, at most.
const STREAMS: u32 = 1_024;
/// Calls that a client gave up before they were begun, for each connection: a replica that was paused finds what its
/// clients gave up meanwhile, and must not answer that by closing the connection. Past this, it is an attack.
const RESETS: usize = STREAMS as usize;
/// What a client may send before it is read, for each stream and for all: one that is not read must not stop the others.
const WINDOW: u32 = 1 << 20;
const WINDOWS: u32 = 8 << 20;
/// A request's headers, at most.
const HEADER_BYTES: u32 = 16 << 10;
/// What is kept of answers that a stream's client does not read.
const SEND_BYTES: usize = 400 << 10;

/// How long a client is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until it has said that it speaks HTTP/2.
    pub preface: Duration,
    /// Until it is asked whether it is still there, and again.
    pub keepalive: Duration,
    /// Until it has answered that.
    pub pong: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { preface: Duration::from_secs(20), keepalive: Duration::from_secs(60), pong: Duration::from_secs(20) }
    }
}

/// How long a connection lasts, and with whom it shares a thread.
pub struct Terms<'a> {
    /// How long its client is waited for.
    pub patience: Patience,
    /// After this it goes; none: whenever its client wants.
    pub age: Option<Duration>,
    /// Cancelled when it is to go; by itself once it has reached its age.
    pub leaving: &'a CancellationToken,
    /// The turns of its thread's connections.
    pub turns: &'a Turns,
}

/// What requests are given to.
pub trait Handle {
    /// Answers a request, now or in a task of its own.
    fn handle(&self, request: Request<RecvStream>, respond: SendResponse<Bytes>, cx: &mut Context<'_>);
}

/// Serves a connection until its client goes, or every request is answered after `leaving` was cancelled or the connection
/// has reached its age; and that with patience, but not for ever.
pub async fn serve<I>(io: I, handler: &impl Handle, Terms { patience, age, leaving, turns }: Terms<'_>)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESETS)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOWS)
        .max_header_list_size(HEADER_BYTES)
        .max_send_buffer_size(SEND_BYTES);
    // What is no HTTP/2, or went away, has nobody to be told.
    let Ok(Ok(mut connection)) = timeout(patience.preface, builder.handshake(io)).await else { return };
    let mut keepalive = connection.ping_pong().map(|pings| Keepalive::new(pings, patience));
    let mut told = pin!(leaving.cancelled());
    let mut age = age.map(|age| Box::pin(sleep(age)));
    let (mut going, mut aged) = (false, false);
    let mut requests = Vec::new();
    let mut expected = 1;
    let mut pace = Pace::new(std::time::Instant::now());
    let mut turn = |cx: &mut Context<'_>, most: usize, come: &mut usize| {
        while let Some(timer) = &mut age
            && timer.as_mut().poll(cx).is_ready()
        {
            if aged {
                return Poll::Ready(());
            }
            aged = true;
            leaving.cancel();
            timer.as_mut().reset(Instant::now() + AGE_GRACE);
        }
        if !going && told.as_mut().poll(cx).is_ready() {
            going = true;
            connection.graceful_shutdown();
        }
        if keepalive.as_mut().is_some_and(|keepalive| keepalive.is_lost(cx)) {
            return Poll::Ready(());
        }
        // First requests, then their answers, so that these share a write. That there are no more takes another look at
        // the connection to know: where as many have come as the last time, that look is for writing.
        loop {
            let over = loop {
                match connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok(accepted))) => {
                        requests.push(accepted);
                        *come += 1;
                        if *come == expected || requests.len() >= most {
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
                expected = if *come > 0 { *come } else { expected.max(1) };
                return Poll::Pending;
            }
            for (request, respond) in requests.drain(..) {
                handler.handle(request, respond, cx);
            }
            if *come == 1 && expected == 1 {
                // A lone answer waits while the other connections of this thread have their turn. Then it is written
                // together with theirs: waking a client's process costs as much as answering it, and one that is
                // still busy with the first answer needs no waking for the next.
                cx.waker().wake_by_ref();
                // Whatever comes next is looked for to its end: otherwise a burst that follows would be taken one by one.
                expected = 0;
                return Poll::Pending;
            }
        }
    };
    poll_fn(|cx| {
        let most = pace.begin(turns, std::time::Instant::now());
        let mut come = 0;
        let over = turn(cx, most, &mut come);
        let now = std::time::Instant::now();
        pace.end(now, come);
        if over.is_pending() && pace.looks_out(now) {
            // Polled again after the thread has looked for what has come.
            let _ = pin!(yield_now()).poll(cx);
        }
        over
    })
    .await;
}

/// Asks a client now and then whether it is still there.
struct Keepalive {
    pings: PingPong,
    patience: Patience,
    timer: Pin<Box<Sleep>>,
    asked: bool,
}

impl Keepalive {
    fn new(pings: PingPong, patience: Patience) -> Self {
        Self { pings, patience, timer: Box::pin(sleep(patience.keepalive)), asked: false }
    }

    /// Whether the client did not answer in time.
    fn is_lost(&mut self, cx: &mut Context<'_>) -> bool {
        if self.asked {
            match self.pings.poll_pong(cx) {
                Poll::Ready(Ok(_)) => {
                    self.asked = false;
                    self.timer.as_mut().reset(Instant::now() + self.patience.keepalive);
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
            self.timer.as_mut().reset(Instant::now() + self.patience.pong);
            if self.pings.poll_pong(cx).is_ready() {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::Response;
    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;

    /// Answers each request at once, and counts them.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Handle for Counting {
        fn handle(&self, _: Request<RecvStream>, mut respond: SendResponse<Bytes>, _: &mut Context<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
            respond.send_response(Response::new(()), true).unwrap();
        }
    }

    const SHORT: Duration = Duration::from_millis(50);
    /// Far past what any of this takes.
    const LONG: Duration = Duration::from_secs(10);
    static TURNS: Turns = Turns::new(0);

    fn terms(patience: Patience, leaving: &CancellationToken) -> Terms<'_> {
        Terms { patience, age: None, leaving, turns: &TURNS }
    }

    const PATIENT: Patience = Patience { preface: LONG, keepalive: LONG, pong: LONG };

    #[tokio::test]
    async fn a_client_that_says_nothing_is_not_waited_for() {
        let (_silent, io) = duplex(1 << 16);
        let patience = Patience { preface: SHORT, ..PATIENT };
        timeout(LONG / 2, serve(io, &Counting::default(), terms(patience, &CancellationToken::new()))).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_is_gone_without_a_word_is_found_out() {
        let (near, io) = duplex(1 << 16);
        let patience = Patience { keepalive: SHORT, pong: SHORT, ..PATIENT };
        let serving = tokio::spawn(async move {
            serve(io, &Counting::default(), terms(patience, &CancellationToken::new())).await;
        });
        let (_sender, mut connection) = h2::client::handshake(near).await.unwrap();
        // As far as the settings; from then on it reads nothing and answers nothing, but its end stays open.
        let _ = timeout(SHORT / 2, &mut connection).await;
        timeout(LONG / 2, serving).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_answers_is_kept_and_served() {
        let (near, io) = duplex(1 << 16);
        let (handler, stop) = (Counting::default(), CancellationToken::new());
        let patience = Patience { keepalive: SHORT, ..PATIENT };
        let client = async {
            let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
            tokio::spawn(connection);
            // Quiet for many keepalives, then one call, then many at once.
            sleep(SHORT * 10).await;
            for burst in [1, 20, 1, 1, 3] {
                let ask = |sender: &mut h2::client::SendRequest<Bytes>| {
                    sender.send_request(Request::post("http://x/").body(()).unwrap(), true).unwrap().0
                };
                let answers: Vec<_> = (0..burst).map(|_| ask(&mut sender)).collect();
                for answer in answers {
                    timeout(LONG, answer).await.unwrap().unwrap();
                }
            }
            stop.cancel();
        };
        tokio::join!(serve(io, &handler, terms(patience, &stop)), client);
        assert_eq!(handler.0.into_inner(), 26);
    }

    #[tokio::test]
    async fn a_connection_says_at_its_age_that_it_is_going() {
        let (mut near, io) = duplex(1 << 16);
        let serving = tokio::spawn(async move {
            serve(io, &Counting::default(), Terms { age: Some(SHORT), ..terms(PATIENT, &CancellationToken::new()) })
                .await;
        });
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        tokio::io::AsyncWriteExt::write_all(&mut near, preface).await.unwrap();
        // Frames until one of type GOAWAY.
        let told = async {
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
        timeout(LONG, told).await.unwrap();
        drop(near);
        timeout(LONG, serving).await.unwrap().unwrap();
    }
}
