//! A connection that its thread counts.

use std::{
    io::{self, IoSlice},
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// How many connections a thread has.
#[derive(Debug, Default)]
pub struct Load(Arc<AtomicUsize>);

impl Load {
    /// Connections now.
    pub fn connections(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection on its way to, or on, the thread that serves it.
pub struct Connection {
    stream: State,
    load: Arc<AtomicUsize>,
    address: IpAddr,
}

enum State {
    /// Accepted elsewhere; the thread that first polls it registers it with its own reactor.
    Handed(Option<std::net::TcpStream>),
    Open(TcpStream),
}

impl Connection {
    /// Counts the connection for as long as it lives.
    pub fn new(stream: std::net::TcpStream, address: IpAddr, load: &Load) -> Self {
        load.0.fetch_add(1, Ordering::Relaxed);
        Self { stream: State::Handed(Some(stream)), load: Arc::clone(&load.0), address }
    }

    /// Where its other end is.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    fn open(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if let State::Handed(stream) = &mut self.stream {
            let stream = stream.take().ok_or(io::ErrorKind::NotConnected)?;
            self.stream = State::Open(TcpStream::from_std(stream)?);
        }
        match &mut self.stream {
            State::Open(stream) => Ok(Pin::new(stream)),
            State::Handed(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.open()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.open()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.open()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open()?.poll_shutdown(cx)
    }
}
