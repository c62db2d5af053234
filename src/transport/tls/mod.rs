//! TLS of both listeners: bounded handshakes, certificates that are reloaded when their files change, and callers that
//! are identified by a client certificate.

mod callers;
mod fair_semaphore;
mod files;

pub(crate) use self::files::exposed_key;

use std::{
    future::Future as _,
    io,
    net::IpAddr,
    num::NonZero,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread::available_parallelism,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_rustls::{
    LazyConfigAcceptor,
    rustls::{self, ServerConfig, server::Acceptor},
    server::{Accept, TlsStream},
};
use tokio_util::sync::CancellationToken;

use self::{
    callers::CertificateCallers,
    fair_semaphore::{FairPermit, FairSemaphore},
    files::FileStamp,
};
use super::budget::network;
use crate::{
    config,
    domain::{caller::Caller, keyspace::Registry},
};

/// Timeout of a handshake, including the wait for permits.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of steps of a handshake, each of which processes the bytes that have arrived. A normal client needs a
/// few; a client that sends byte by byte would need many.
const MAX_STEPS: usize = 32;
/// Interval between two checks whether the files have changed.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// The listener that a client connected to. It decides which protocols are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// HTTP/2 only.
    Grpc,
    /// HTTP/2 or HTTP/1.1.
    Rest,
}

/// The configurations from the last valid files.
struct ServerConfigs {
    grpc: Arc<ServerConfig>,
    rest: Arc<ServerConfig>,
}

/// The TLS configuration of this process.
pub struct Tls {
    config: config::TlsSettings,
    callers: CertificateCallers,
    configs: ArcSwap<ServerConfigs>,
    /// The stamps of the files, taken just before they were first read.
    initial_stamps: Vec<FileStamp>,
    /// Permits for handshake computations, for each listener.
    grpc_handshakes: Arc<FairSemaphore>,
    rest_handshakes: Arc<FairSemaphore>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// Every problem, with the setting that names the file.
    pub fn load(config: &config::TlsSettings, registry: &Registry) -> Result<Arc<Self>, Vec<String>> {
        let initial_stamps = files::stamps(config);
        Ok(Arc::new(Self {
            configs: ArcSwap::from_pointee(ServerConfigs::read(config)?),
            callers: CertificateCallers::new(&config.clients, registry),
            config: config.clone(),
            initial_stamps,
            grpc_handshakes: FairSemaphore::new(max_computing()),
            rest_handshakes: FairSemaphore::new(max_computing()),
        }))
    }

    /// Performs the handshake. Returns the encrypted stream and the caller that the client's certificate identifies, if it
    /// identifies one. None if the handshake failed or timed out.
    ///
    /// A client that has sent nothing takes no permit. The cryptography runs on other threads, within a bounded number
    /// of permits that are fair between client addresses: neither silent clients nor many handshakes of one address
    /// delay others, and none delays the calls of this thread.
    pub async fn accept(
        &self,
        io: TcpStream,
        client: IpAddr,
        port: Port,
    ) -> Option<(TlsStream<TcpStream>, Option<Caller>)> {
        let stream = match timeout(HANDSHAKE_TIMEOUT, self.handshake(io, client, port)).await.ok()? {
            Ok(stream) => stream,
            // One side rejected something of the other, such as its certificate.
            Err(error) if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) => {
                tracing::info!(%client, ?port, %error, "TLS handshake failed");
                return None;
            }
            Err(error) => {
                tracing::debug!(%client, ?port, %error, "TLS handshake aborted");
                return None;
            }
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let caller = certificate.and_then(|certificate| self.callers.find(certificate));
        Some((stream, caller))
    }

    async fn handshake(&self, io: TcpStream, client: IpAddr, port: Port) -> io::Result<TlsStream<TcpStream>> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
        let (semaphore, client) = match port {
            Port::Grpc => (&self.grpc_handshakes, network(client)),
            Port::Rest => (&self.rest_handshakes, network(client)),
        };
        let permit = semaphore.acquire(client).await;
        let configs = self.configs.load_full();
        let config = Arc::clone(if port == Port::Grpc { &configs.grpc } else { &configs.rest });
        let mut step = compute(permit, move || hello.into_stream(config)).await?;
        for _ in 0..MAX_STEPS {
            let accept = match step {
                HandshakeStep::Done(stream) => return Ok(*stream),
                HandshakeStep::Waits(accept) => accept,
            };
            let Some(io) = accept.get_ref() else { return Err(io::ErrorKind::UnexpectedEof.into()) };
            io.readable().await?;
            let permit = semaphore.acquire(client).await;
            step = compute(permit, move || *accept).await?;
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Reloads the files when they change and on SIGHUP. If they are invalid, the last valid ones stay in use.
    pub async fn reload_on_change(self: Arc<Self>, stop: CancellationToken) {
        let mut hangups = match signal(SignalKind::hangup()) {
            Ok(hangups) => hangups,
            Err(error) => return tracing::error!(%error, "SIGHUP handler failed: TLS files are not reloaded"),
        };
        let mut last_stamps = self.initial_stamps.clone();
        let mut problems = Vec::new();
        loop {
            let requested = tokio::select! {
                () = stop.cancelled() => return,
                _ = hangups.recv() => true,
                () = sleep(RELOAD_INTERVAL) => false,
            };
            let tls = Arc::clone(&self);
            let last = last_stamps.clone();
            let reload = requested || !problems.is_empty();
            // Reading a file may block, for example on a network disk.
            let checked = tokio::task::spawn_blocking(move || {
                // Take the stamps before reading: a change during the read is then seen at the next check.
                let stamps = files::stamps(&tls.config);
                let reloaded = (reload || stamps != last).then(|| ServerConfigs::read(&tls.config));
                (stamps, reloaded)
            });
            let Ok((stamps, reloaded)) = checked.await else { continue };
            last_stamps = stamps;
            match reloaded {
                None => {}
                Some(Ok(configs)) => {
                    self.configs.store(Arc::new(configs));
                    problems = Vec::new();
                    tracing::info!("TLS files reloaded; new connections use them");
                }
                Some(Err(found)) => {
                    if requested || found != problems {
                        let found = found.join("; ");
                        tracing::error!(problems = found, "TLS files are invalid; the last valid ones stay in use");
                    }
                    problems = found;
                }
            }
        }
    }
}

/// Maximum number of handshakes of a listener that compute concurrently: half of the cores, so that the other half
/// answers calls.
fn max_computing() -> usize {
    (available_parallelism().map_or(1, NonZero::get) / 2).max(1)
}

/// The state of a handshake.
enum HandshakeStep {
    Done(Box<TlsStream<TcpStream>>),
    /// It waits for the client.
    Waits(Box<Accept<TcpStream>>),
}

/// Continues a handshake with the bytes that have arrived, on a thread that serves no calls.
async fn compute(
    permit: FairPermit,
    begin: impl FnOnce() -> Accept<TcpStream> + Send + 'static,
) -> io::Result<HandshakeStep> {
    let computed = spawn_blocking(move || {
        let mut accept = Box::new(begin());
        // Ignore the waker: the caller waits for the socket.
        let polled = Pin::new(&mut *accept).poll(&mut Context::from_waker(Waker::noop()));
        drop(permit);
        match polled {
            Poll::Ready(stream) => stream.map(|stream| HandshakeStep::Done(Box::new(stream))),
            Poll::Pending => Ok(HandshakeStep::Waits(accept)),
        }
    });
    computed.await.map_err(io::Error::other)?
}

impl ServerConfigs {
    fn read(config: &config::TlsSettings) -> Result<Self, Vec<String>> {
        let server = files::server_config(config)?;
        let offering = |protocols: &[&[u8]]| {
            let mut server = server.clone();
            server.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(server)
        };
        Ok(Self { grpc: offering(&[b"h2"]), rest: offering(&[b"h2", b"http/1.1"]) })
    }
}
