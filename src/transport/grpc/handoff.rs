//! Handing an accepted connection to the thread that serves it.

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::net::TcpStream;

use crate::transport::accept::Admission;

/// The number of connections of one thread.
#[derive(Debug, Default)]
pub(crate) struct ConnectionCount(Arc<AtomicUsize>);

impl ConnectionCount {
    /// Connections that the thread serves or that wait for it.
    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one more connection until the guard is dropped.
    fn add(&self) -> CountGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        CountGuard(Arc::clone(&self.0))
    }
}

/// Keeps one connection counted.
pub(crate) struct CountGuard(Arc<AtomicUsize>);

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that one thread accepted and another one serves.
pub(crate) struct HandedConnection {
    stream: std::net::TcpStream,
    address: IpAddr,
    admission: Arc<Admission>,
    guard: CountGuard,
}

impl HandedConnection {
    /// Takes the socket off the reactor of the accepting thread and counts the connection.
    ///
    /// # Errors
    ///
    /// The error of the socket.
    pub(crate) fn new(
        stream: TcpStream,
        address: IpAddr,
        admission: Admission,
        count: &ConnectionCount,
    ) -> io::Result<Self> {
        Ok(Self { stream: stream.into_std()?, address, admission: Arc::new(admission), guard: count.add() })
    }

    /// The client's address.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// The connection's slot in its listener's table.
    pub(crate) fn admission(&self) -> Arc<Admission> {
        Arc::clone(&self.admission)
    }

    /// Registers the socket with the reactor of the calling thread. The connection is counted until the guard is dropped.
    ///
    /// # Errors
    ///
    /// The error of the reactor.
    pub(crate) fn open(self) -> io::Result<(TcpStream, CountGuard)> {
        Ok((TcpStream::from_std(self.stream)?, self.guard))
    }
}
