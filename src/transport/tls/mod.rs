//! TLS of both listeners: bounded handshakes, certificates that are reloaded when their files change, and callers that
//! are identified by a client certificate.

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

use self::{callers::CertificateCallers, files::FileStamp};
use crate::{
    config,
    domain::{caller::Caller, keyspace::Registry},
};

/// Concurrent handshakes. Each computes a signature, so more of them would only slow each other down.
const MAX_HANDSHAKES: usize = 1_024;
/// Timeout of a handshake, including the wait for one of [`MAX_HANDSHAKES`] permits.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
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

/// The acceptors made from the last valid files.
struct Acceptors {
    grpc: TlsAcceptor,
    rest: TlsAcceptor,
}

/// The TLS configuration of this process.
pub struct Tls {
    config: config::TlsSettings,
    callers: CertificateCallers,
    acceptors: ArcSwap<Acceptors>,
    /// The stamps of the files, taken just before they were first read.
    initial_stamps: Vec<FileStamp>,
    handshake_permits: Semaphore,
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
            acceptors: ArcSwap::from_pointee(Acceptors::read(config)?),
            callers: CertificateCallers::new(&config.clients, registry),
            config: config.clone(),
            initial_stamps,
            handshake_permits: Semaphore::new(MAX_HANDSHAKES),
        }))
    }

    /// Performs the handshake. Returns the encrypted stream and the caller that the client's certificate identifies, if it
    /// identifies one. None if the handshake failed or timed out.
    pub async fn accept<I>(&self, io: I, client: IpAddr, port: Port) -> Option<(TlsStream<I>, Option<Caller>)>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = async {
            let _permit = self.handshake_permits.acquire().await.ok()?;
            let acceptors = self.acceptors.load_full();
            let acceptor = match port {
                Port::Grpc => &acceptors.grpc,
                Port::Rest => &acceptors.rest,
            };
            match acceptor.accept(io).await {
                Ok(stream) => Some(stream),
                // One side rejected something of the other, such as its certificate.
                Err(error)
                    if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) =>
                {
                    tracing::info!(%client, ?port, %error, "TLS handshake failed");
                    None
                }
                Err(error) => {
                    tracing::debug!(%client, ?port, %error, "TLS handshake aborted");
                    None
                }
            }
        };
        let stream = timeout(HANDSHAKE_TIMEOUT, handshake).await.ok()??;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let caller = certificate.and_then(|certificate| self.callers.find(certificate));
        Some((stream, caller))
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
                let reloaded = (reload || stamps != last).then(|| Acceptors::read(&tls.config));
                (stamps, reloaded)
            });
            let Ok((stamps, reloaded)) = checked.await else { continue };
            last_stamps = stamps;
            match reloaded {
                None => {}
                Some(Ok(acceptors)) => {
                    self.acceptors.store(Arc::new(acceptors));
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

impl Acceptors {
    fn read(config: &config::TlsSettings) -> Result<Self, Vec<String>> {
        let server = files::server_config(config)?;
        let acceptor = |protocols: &[&[u8]]| {
            let mut server = server.clone();
            server.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            TlsAcceptor::from(Arc::new(server))
        };
        Ok(Self { grpc: acceptor(&[b"h2"]), rest: acceptor(&[b"h2", b"http/1.1"]) })
    }
}
