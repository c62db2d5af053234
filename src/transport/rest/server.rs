//! The HTTP listener: HTTP/1.1 and HTTP/2, in plain text or under TLS, bounded in connections and in time.

use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::layers::HttpHandler;
use crate::{
    domain::clock::Entropy,
    transport::{
        listener::{AGE_GRACE, ListenerOptions},
        peer::Peer,
        tls::Port,
    },
};

/// The most connections at once. More of them wait in the listener's queue.
const MAX_CONNECTIONS: usize = 10_000;
/// Timeout for the first request of a connection, and for the headers of each.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Serves until `options.stop` is cancelled, then lets requests in flight end.
pub async fn run(
    listener: Arc<TcpListener>,
    handler: HttpHandler,
    entropy: Arc<dyn Entropy>,
    options: ListenerOptions,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    while let Some((stream, peer, slot)) = options.stop.run_until_cancelled(accept(&listener, &slots)).await {
        let (handler, age, options) = (handler.clone(), options.connection_age(&*entropy), options.clone());
        connections.spawn(async move {
            serve(stream, peer.ip(), handler, age, &options).await;
            drop(slot);
        });
    }
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(options.drain, connections.wait()).await;
}

async fn serve(
    stream: TcpStream,
    address: IpAddr,
    handler: HttpHandler,
    age: Option<Duration>,
    options: &ListenerOptions,
) {
    let closing = options.stop.clone();
    let Some(tls) = &options.tls else {
        let peer = Peer { address, secure: false, caller: None, closing };
        return serve_connection(stream, peer, handler, age, options).await;
    };
    let accepted = options.stop.run_until_cancelled(tls.accept(stream, address, Port::Rest)).await;
    if let Some(Some((stream, caller))) = accepted {
        let peer = Peer { address, secure: true, caller, closing };
        serve_connection(stream, peer, handler, age, options).await;
    }
}

/// Serves one connection until the client closes it, the listener stops, or the connection reaches its maximum age.
/// hyper-util's builder is used instead of `axum::serve`, which sets no timeouts.
async fn serve_connection<I>(io: I, peer: Peer, handler: HttpHandler, age: Option<Duration>, options: &ListenerOptions)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let peer = Arc::new(peer);
    let requested = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        requested.store(true, Ordering::Relaxed);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Arc::clone(&peer));
        handler.clone().oneshot(request)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).half_close(true);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256).max_header_list_size(32 << 10);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let too_old = async {
        match age {
            Some(age) => tokio::time::sleep(age).await,
            None => std::future::pending().await,
        }
    };
    // hyper's own timeout covers HTTP/1 only, from the moment when the first bytes show the version.
    let silent = async {
        tokio::time::sleep(HEADER_TIMEOUT).await;
        if requested.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let grace = tokio::select! {
        biased;
        // The connection ends, or the client breaks it off: neither is an error of the server.
        _ = connection.as_mut() => return,
        () = silent => return,
        () = options.stop.cancelled() => options.drain,
        () = too_old => AGE_GRACE,
    };
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(grace, connection).await;
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, Option<OwnedSemaphorePermit>) {
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                return (stream, peer, slot);
            }
            Err(error) => {
                // Usually the process has no file descriptor left. Without a delay this loop would spin.
                tracing::warn!(%error, "accept failed, retrying");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}
