//! A stream whose writes fail when the client reads too slowly.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// Rate in bytes per second at which a client has to read to be allowed more time.
const MIN_RATE: u32 = 16 << 10;

/// A stream whose writes may be blocked for a bounded time. Bytes that the client reads extend the time at
/// [`MIN_RATE`]: a client that reads one byte now and then is closed like one that reads none.
pub struct WriteTimeout<I> {
    io: I,
    timeout: Duration,
    /// How long writes were blocked, minus the extensions since.
    blocked: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<I> WriteTimeout<I> {
    /// Writes to this stream.
    pub fn new(io: I, timeout: Duration) -> Self {
        Self { io, timeout, blocked: Duration::ZERO, since: None, timer: None }
    }

    /// Fails a write that is blocked for too long.
    fn check<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>, bytes: usize) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if let Some(since) = self.since.take() {
                self.blocked += since.elapsed();
            }
            // Most clients never block a write.
            if !self.blocked.is_zero() {
                let earned = Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX) / MIN_RATE;
                self.blocked = self.blocked.saturating_sub(earned);
            }
            return written;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let deadline = since + self.timeout.saturating_sub(self.blocked);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for WriteTimeout<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        let count = if let Poll::Ready(Ok(count)) = &written { *count } else { 0 };
        self.check(cx, written, count)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        let count = if let Poll::Ready(Ok(count)) = &written { *count } else { 0 };
        self.check(cx, written, count)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.check(cx, flushed, 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(cx);
        self.check(cx, shut, 0)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn a_client_that_takes_one_byte_now_and_then_is_closed() {
        let (server, mut client) = duplex(16);
        let mut server = WriteTimeout::new(server, Duration::from_millis(200));
        let reading = tokio::spawn(async move {
            while client.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let error = server.write_all(&vec![0; 100_000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(server);
        reading.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_reads_may_take_longer_than_the_timeout_in_total() {
        let (server, mut client) = duplex(8 << 10);
        let mut server = WriteTimeout::new(server, Duration::from_secs(5));
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            client.read_to_end(&mut read).await.unwrap();
            read.len()
        });
        server.write_all(&vec![0; 1 << 20]).await.unwrap();
        drop(server);
        assert_eq!(reading.await.unwrap(), 1 << 20);
    }
}
