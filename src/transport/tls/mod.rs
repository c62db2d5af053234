//! TLS of both listeners: handshakes that are bounded in number and time, files that are read anew when they change, and
//! callers that are known by their certificate.

mod callers;
mod files;

use std::{net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls, server::TlsStream};
use tokio_util::sync::CancellationToken;

use self::{callers::Callers, files::Stamp};
use crate::{
    config,
    domain::{caller::Caller, keyspace::Registry},
};

/// Handshakes at once: each is a signature, and past this they only slow each other down.
const HANDSHAKES: usize = 1_024;
/// How long a client may take until it is through, its turn included.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Which listener a client has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// HTTP/2 alone.
    Grpc,
    /// HTTP/2 or HTTP/1.1.
    Rest,
}

/// What the files gave when they were last read well.
struct Current {
    grpc: TlsAcceptor,
    rest: TlsAcceptor,
}

/// The TLS of an installation.
pub struct Tls {
    config: config::Tls,
    callers: Callers,
    current: ArcSwap<Current>,
    /// The files as they were just before they were first read.
    first: Vec<Stamp>,
    handshakes: Semaphore,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// Every problem, each with its setting.
    pub fn load(config: &config::Tls, registry: &Registry) -> Result<Arc<Self>, Vec<String>> {
        let first = files::stamps(config);
        Ok(Arc::new(Self {
            current: ArcSwap::from_pointee(Current::read(config)?),
            callers: Callers::new(&config.clients, registry),
            config: config.clone(),
            first,
            handshakes: Semaphore::new(HANDSHAKES),
        }))
    }

    /// Agrees with a client on a secret connection, and says who the client is, if its certificate tells. None if it did
    /// not come to that.
    pub async fn accept<I>(&self, io: I, from: IpAddr, port: Port) -> Option<(TlsStream<I>, Option<Caller>)>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = async {
            let _turn = self.handshakes.acquire().await.ok()?;
            let current = self.current.load_full();
            let acceptor = match port {
                Port::Grpc => &current.grpc,
                Port::Rest => &current.rest,
            };
            match acceptor.accept(io).await {
                Ok(stream) => Some(stream),
                // Something was said and refused, such as a certificate, by either side.
                Err(error)
                    if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) =>
                {
                    tracing::info!(client = %from, ?port, %error, "a TLS handshake failed");
                    None
                }
                Err(error) => {
                    tracing::debug!(client = %from, ?port, %error, "a TLS handshake was broken off");
                    None
                }
            }
        };
        let stream = timeout(HANDSHAKE, handshake).await.ok()??;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let caller = certificate.and_then(|certificate| self.callers.of(certificate));
        Some((stream, caller))
    }

    /// Reads the files anew when they change and at each SIGHUP. Where they are not good, the last good ones stay.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut hangups = match signal(SignalKind::hangup()) {
            Ok(hangups) => hangups,
            Err(error) => return tracing::error!(%error, "SIGHUP cannot be handled: TLS files are not read anew"),
        };
        let mut seen = self.first.clone();
        let mut problems = Vec::new();
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                _ = hangups.recv() => true,
                () = sleep(LOOK) => false,
            };
            let tls = Arc::clone(&self);
            let last = seen.clone();
            let again = asked || !problems.is_empty();
            // Files may lie on a disk that does not answer.
            let looked = tokio::task::spawn_blocking(move || {
                // Before they are read: what changes after that is seen the next time.
                let now = files::stamps(&tls.config);
                let read = (again || now != last).then(|| Current::read(&tls.config));
                (now, read)
            });
            let Ok((now, read)) = looked.await else { continue };
            seen = now;
            match read {
                None => {}
                Some(Ok(current)) => {
                    self.current.store(Arc::new(current));
                    problems = Vec::new();
                    tracing::info!("TLS files were read anew; connections made from now on have them");
                }
                Some(Err(found)) => {
                    if asked || found != problems {
                        let found = found.join("; ");
                        tracing::error!(problems = found, "TLS files are not good; the last good ones stay");
                    }
                    problems = found;
                }
            }
        }
    }
}

impl Current {
    fn read(config: &config::Tls) -> Result<Self, Vec<String>> {
        let server = files::server(config)?;
        let acceptor = |protocols: &[&[u8]]| {
            let mut server = server.clone();
            server.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            TlsAcceptor::from(Arc::new(server))
        };
        Ok(Self { grpc: acceptor(&[b"h2"]), rest: acceptor(&[b"h2", b"http/1.1"]) })
    }
}
