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
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::transport::terms::Peer;

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
    peer: Arc<Peer>,
    /// How long it may live at the most, from when it is opened.
    life: Option<Duration>,
    end: Option<Pin<Box<Sleep>>>,
}

enum State {
    /// Accepted elsewhere; the thread that first polls it registers it with its own reactor.
    Handed(Option<std::net::TcpStream>),
    Open(TcpStream),
}

impl Connection {
    /// Counts the connection for as long as it lives: until it is closed, or longer than `life`.
    pub fn new(stream: std::net::TcpStream, address: IpAddr, load: &Load, life: Option<Duration>) -> Self {
        load.0.fetch_add(1, Ordering::Relaxed);
        let peer = Arc::new(Peer { address, caller: None });
        Self { stream: State::Handed(Some(stream)), load: Arc::clone(&load.0), peer, life, end: None }
    }

    /// Whoever is at its other end.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    fn open(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if let State::Handed(stream) = &mut self.stream {
            let stream = stream.take().ok_or(io::ErrorKind::NotConnected)?;
            self.stream = State::Open(TcpStream::from_std(stream)?);
            self.end = self.life.map(|life| Box::pin(sleep(life)));
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

impl Connected for Connection {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
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

/// A connection under TLS.
pub struct Secured {
    stream: TlsStream<Connection>,
    peer: Arc<Peer>,
}

impl Secured {
    /// The connection after its handshake, of whoever that has shown.
    pub fn new(stream: TlsStream<Connection>, peer: Peer) -> Self {
        Self { stream, peer: Arc::new(peer) }
    }
}

impl Connected for Secured {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
