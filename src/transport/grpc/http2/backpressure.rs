//! Unauthenticated clients are read in small turns, and not at all while they read no response.
//!
//! h2 keeps about 2 KiB for each open stream, and opens as many as it has read requests for before any is handled. A client
//! whose requests are read a few at a time has few streams open, since each is refused before the next ones are read.
//! But HTTP/2 does not bound responses without data, such as refusals: a client that reads none would pile them up.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    anonymous_turns::{AnonymousTurns, Turn},
    handler::StreamHandler,
};

/// Bytes that are read in one turn.
const ANONYMOUS_READ_BYTES: usize = 4 << 10;

/// A connection that is read in turns as long as no call was authenticated on it.
pub(super) struct Backpressure<'a, I, H> {
    io: I,
    handler: &'a H,
    /// What may still be read in this turn.
    quota: usize,
    turns: Arc<AnonymousTurns>,
    /// The next turn, if the connection waits for it.
    next: Option<Turn>,
    /// A write waits for the client.
    blocked: bool,
    /// A byte was read or written, or could have been.
    polled: bool,
}

impl<'a, I, H> Backpressure<'a, I, H> {
    pub(super) fn new(io: I, handler: &'a H, turns: Arc<AnonymousTurns>) -> Self {
        Self { io, handler, quota: ANONYMOUS_READ_BYTES, turns, next: None, blocked: false, polled: false }
    }

    /// Notes whether a write has to wait.
    fn note<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_pending() {
            self.blocked = true;
        } else if self.blocked {
            self.blocked = false;
            // A read may have been put off meanwhile.
            cx.waker().wake_by_ref();
        }
        written
    }
}

impl<I: AsyncRead + Unpin, H: StreamHandler> AsyncRead for Backpressure<'_, I, H> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.polled = true;
        if self.handler.is_authenticated() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        // The write that waits wakes the task.
        if self.blocked {
            return Poll::Pending;
        }
        if self.quota == 0 {
            let this = &mut *self;
            if !this.next.get_or_insert_with(|| this.turns.wait(cx.waker())).has_come() {
                return Poll::Pending;
            }
            self.next = None;
            self.quota = ANONYMOUS_READ_BYTES;
        }
        let most = self.quota.min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buffer.advance(read);
        self.quota -= read;
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin, H> AsyncWrite for Backpressure<'_, I, H> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.polled = true;
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.note(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.note(cx, written)
    }

    /// False until the first read or write. h2 asks when the connection is made, to choose up to which length it copies a
    /// payload into its buffer: 1,024 bytes, or 256 if writes are vectored. A longer payload has a write of its own, so
    /// that responses to gateways and to Verify, of 300 to 1,000 bytes, would not share one. h2 asks again before each
    /// write.
    fn is_write_vectored(&self) -> bool {
        self.polled && self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.note(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.io).poll_shutdown(cx);
        self.note(cx, closed)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        future::poll_fn,
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use bytes::Bytes;
    use futures::poll;
    use h2::{RecvStream, server::SendResponse};
    use http::Request;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        task::yield_now,
    };

    use super::*;

    #[derive(Default)]
    struct Client {
        authenticated: Cell<bool>,
    }

    impl StreamHandler for Client {
        fn handle(&self, _: Request<RecvStream>, _: SendResponse<Bytes>, _: &mut Context<'_>) {}

        fn is_authenticated(&self) -> bool {
            self.authenticated.get()
        }

        fn keeps_idle(&self) -> bool {
            false
        }

        fn grace(&self) -> Option<Duration> {
            None
        }
    }

    /// What one poll reads; `None` if it reads nothing.
    async fn read<I: AsyncRead + Unpin>(io: &mut I, most: usize) -> Option<usize> {
        let mut bytes = vec![0; most];
        let read = poll_fn(|cx| {
            let mut buffer = ReadBuf::new(&mut bytes);
            let polled = Pin::new(&mut *io).poll_read(cx, &mut buffer);
            Poll::Ready(polled.is_ready().then(|| buffer.filled().len()))
        });
        read.await
    }

    /// Counts writes.
    struct Counted<I> {
        io: I,
        writes: Arc<AtomicUsize>,
    }

    impl<I: AsyncRead + Unpin> AsyncRead for Counted<I> {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_read(cx, buffer)
        }
    }

    impl<I: AsyncWrite + Unpin> AsyncWrite for Counted<I> {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.writes.fetch_add(1, Ordering::SeqCst);
            Pin::new(&mut self.io).poll_write(cx, bytes)
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.writes.fetch_add(1, Ordering::SeqCst);
            Pin::new(&mut self.io).poll_write_vectored(cx, slices)
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    /// Sends 16 responses of this length in one turn; returns how many writes that takes.
    async fn writes(length: usize) -> usize {
        const REQUESTS: usize = 16;
        let handler = Client::default();
        handler.authenticated.set(true);
        let (client, server) = duplex(1 << 20);
        let counter = Arc::new(AtomicUsize::new(0));
        let server = Counted { io: server, writes: Arc::clone(&counter) };
        let serve = async {
            let mut connection =
                h2::server::handshake(Backpressure::new(server, &handler, Arc::default())).await.unwrap();
            let mut requests = Vec::new();
            while requests.len() < REQUESTS {
                requests.push(connection.accept().await.unwrap().unwrap().1);
            }
            let before = counter.load(Ordering::SeqCst);
            for mut respond in requests {
                let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                stream.send_data(Bytes::from(vec![0; length]), true).unwrap();
            }
            assert!(connection.accept().await.is_none(), "the client has closed the connection");
            counter.load(Ordering::SeqCst) - before
        };
        let ask = async {
            let (mut sender, connection) = h2::client::handshake(client).await.unwrap();
            let driven = tokio::spawn(connection);
            let responses: Vec<_> = (0..REQUESTS)
                .map(|_| sender.send_request(Request::get("http://x/").body(()).unwrap(), true).unwrap().0)
                .collect();
            for response in responses {
                let mut body = response.await.unwrap().into_body();
                let mut received = 0;
                while let Some(piece) = body.data().await {
                    received += piece.unwrap().len();
                }
                assert_eq!(received, length);
            }
            drop(sender);
            driven.await.unwrap().unwrap();
        };
        let (writes, ()) = tokio::join!(serve, ask);
        writes
    }

    #[tokio::test]
    async fn responses_of_a_gateway_share_writes_and_longer_ones_are_not_copied() {
        // 16 KiB of h2's buffer, and frames that belong to no response.
        assert!(writes(900).await <= 4);
        assert!(writes(2_000).await >= 16);
    }

    #[tokio::test]
    async fn an_unauthenticated_client_is_read_in_small_turns_and_an_authenticated_one_at_once() {
        let handler = Client::default();
        let (mut client, io) = duplex(1 << 20);
        client.write_all(&vec![0; 100_000]).await.unwrap();
        let mut io = Backpressure::new(io, &handler, Arc::default());
        for _ in 0..2 {
            assert_eq!(read(&mut io, 3_000).await, Some(3_000));
            assert_eq!(read(&mut io, 3_000).await, Some(ANONYMOUS_READ_BYTES - 3_000));
            assert_eq!(read(&mut io, 3_000).await, None);
            // What wakes the task meanwhile gives it no turn.
            assert_eq!(read(&mut io, 3_000).await, None);
            while !io.next.as_ref().unwrap().has_come() {
                yield_now().await;
            }
        }
        handler.authenticated.set(true);
        assert_eq!(read(&mut io, 50_000).await, Some(50_000));
    }

    #[tokio::test]
    async fn an_unauthenticated_client_that_reads_no_response_is_not_read_until_it_does() {
        let handler = Client::default();
        let (mut client, io) = duplex(16);
        let mut io = Backpressure::new(io, &handler, Arc::default());
        client.write_all(b"request").await.unwrap();
        io.write_all(&[0; 16]).await.unwrap();
        assert!(poll!(Box::pin(io.write_all(&[0; 16]))).is_pending());
        assert_eq!(read(&mut io, 16).await, None);
        client.read_exact(&mut [0; 16]).await.unwrap();
        io.write_all(&[0; 16]).await.unwrap();
        assert_eq!(read(&mut io, 16).await, Some(7));
    }
}
