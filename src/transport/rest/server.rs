//! The HTTP listener: HTTP/1.1 and HTTP/2, in plain text or under TLS, bounded in connections and in time.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::task::TaskTracker;

use super::{Body, BodyError, Routes};
use crate::{
    domain::clock::Entropy,
    transport::{
        listener::{AGE_GRACE, ListenerOptions},
        peer::Peer,
        tls::Port,
    },
};

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS: usize = 10_000;
/// How long a client may take to begin, and to send its headers.
const HEADERS: Duration = Duration::from_secs(10);

/// What answers requests.
pub trait HttpHandler: Send + Sync + 'static {
    /// Answers one request of a client.
    fn answer<'a>(
        &'a self,
        request: Request<Body>,
        peer: &'a Peer,
        routes: Routes,
    ) -> BoxFuture<'a, Response<Full<Bytes>>>;

    /// Chance.
    fn entropy(&self) -> &dyn Entropy;
}

/// Serves until the listener's options say to stop, then lets requests in flight end.
pub async fn run<F: HttpHandler>(listener: Arc<TcpListener>, front: Arc<F>, routes: Routes, options: ListenerOptions) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    while let Some((stream, peer, slot)) = options.stop.run_until_cancelled(accept(&listener, &slots)).await {
        let (front, options) = (Arc::clone(&front), options.clone());
        connections.spawn(async move {
            serve(stream, peer.ip(), front, routes, &options).await;
            drop(slot);
        });
    }
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(options.drain, connections.wait()).await;
}

async fn serve<F: HttpHandler>(
    stream: TcpStream,
    address: IpAddr,
    front: Arc<F>,
    routes: Routes,
    options: &ListenerOptions,
) {
    let Some(tls) = &options.tls else {
        return speak(
            stream,
            Peer { address, secure: false, caller: None, closing: options.stop.clone() },
            front,
            routes,
            options,
        )
        .await;
    };
    if let Some(Some((stream, caller))) =
        options.stop.run_until_cancelled(tls.accept(stream, address, Port::Rest)).await
    {
        speak(stream, Peer { address, secure: true, caller, closing: options.stop.clone() }, front, routes, options)
            .await;
    }
}

/// Speaks HTTP until the client goes, the listener stops or the connection is old.
async fn speak<F: HttpHandler, I>(io: I, peer: Peer, front: Arc<F>, routes: Routes, options: &ListenerOptions)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let age = options.connection_age(front.entropy());
    let peer = Arc::new(peer);
    let asked = AtomicBool::new(false);
    let answer = service_fn(|request| {
        asked.store(true, Ordering::Relaxed);
        respond(Arc::clone(&front), request, Arc::clone(&peer), routes)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS).half_close(true);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256).max_header_list_size(32 << 10);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), answer));
    let old = async {
        match age {
            Some(age) => tokio::time::sleep(age).await,
            None => std::future::pending().await,
        }
    };
    // Until the first bytes have told which HTTP it is, and in HTTP/2 before the first request, no other clock runs.
    let silent = async {
        tokio::time::sleep(HEADERS).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let left = tokio::select! {
        biased;
        // A client that breaks off is its own business.
        _ = connection.as_mut() => return,
        () = silent => return,
        () = options.stop.cancelled() => options.drain,
        () = old => AGE_GRACE,
    };
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(left, connection).await;
}

/// Boxed: the type of the whole call tree stays out of the connection's.
fn respond<F: HttpHandler>(
    front: Arc<F>,
    request: Request<Incoming>,
    peer: Arc<Peer>,
    routes: Routes,
) -> BoxFuture<'static, Result<Response<Full<Bytes>>, Infallible>> {
    async move {
        let request = request.map(|body| body.map_err(|error| BodyError::new(&error)).boxed_unsync());
        Ok(front.answer(request, &peer, routes).await)
    }
    .boxed()
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, Option<tokio::sync::OwnedSemaphorePermit>) {
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                return (stream, peer, slot);
            }
            Err(error) => {
                // Out of descriptors, most likely: without a pause this would spin.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
