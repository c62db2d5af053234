//! Strangers are read in small turns, and not at all while they take nothing.
//!
//! h2 keeps about 2 KiB for each open stream, and opens as many as it has read requests for before any is handled. A
//! stranger whose requests are read a few at a time has few streams open, since each is refused before the next ones are
//! read. But HTTP/2 does not bound responses without data, such as refusals: a client that reads none would pile them up.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    handler::StreamHandler,
    read_turns::{ReadTurns, Turn},
};

/// Bytes of a stranger's requests that are read in one turn.
const STRANGER_READ_BYTES: usize = 4 << 10;

/// A connection that is read in turns as long as no call was authenticated on it.
pub(super) struct Backpressure<'a, I, H> {
    io: I,
    handler: &'a H,
    /// What may still be read in this turn.
    quota: usize,
    turns: Arc<ReadTurns>,
    /// The next turn, if the connection waits for it.
    next: Option<Turn>,
    /// A write waits for the client.
    blocked: bool,
}

impl<'a, I, H> Backpressure<'a, I, H> {
    pub(super) fn new(io: I, handler: &'a H, turns: Arc<ReadTurns>) -> Self {
        Self { io, handler, quota: STRANGER_READ_BYTES, turns, next: None, blocked: false }
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
            self.quota = STRANGER_READ_BYTES;
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

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
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
    use std::{cell::Cell, future::poll_fn, time::Duration};

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

    #[tokio::test]
    async fn a_stranger_is_read_in_small_turns_and_an_authenticated_client_at_once() {
        let handler = Client::default();
        let (mut client, io) = duplex(1 << 20);
        client.write_all(&vec![0; 100_000]).await.unwrap();
        let mut io = Backpressure::new(io, &handler, Arc::default());
        for _ in 0..2 {
            assert_eq!(read(&mut io, 3_000).await, Some(3_000));
            assert_eq!(read(&mut io, 3_000).await, Some(STRANGER_READ_BYTES - 3_000));
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
    async fn a_stranger_that_takes_nothing_is_not_read_until_it_does() {
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
