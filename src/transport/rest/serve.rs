//! The HTTP listener: HTTP/1.1 and h2c, bounded in connections and in time.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

use super::{BodyError, Rest, Routes};

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS: usize = 10_000;
/// How long a client may take to send its headers.
const HEADERS: Duration = Duration::from_secs(10);

/// Serves until `stop` is cancelled, then lets requests in flight end for at most `drain`.
pub async fn run(listener: TcpListener, rest: Arc<Rest>, routes: Routes, stop: CancellationToken, drain: Duration) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    while let Some((stream, peer, slot)) = stop.run_until_cancelled(accept(&listener, &slots)).await {
        let rest = Arc::clone(&rest);
        let answer = service_fn(move |request| respond(Arc::clone(&rest), request, peer.ip(), routes));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS).half_close(true);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256).max_header_list_size(32 << 10);
        let connection = builder.serve_connection(TokioIo::new(stream), answer).into_owned();
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that breaks off is its own business.
            let _ = watched.await;
            drop(slot);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(drain, graceful.shutdown()).await;
}

/// Boxed: the type of the whole call tree stays out of the connection's.
fn respond(
    rest: Arc<Rest>,
    request: Request<Incoming>,
    peer: IpAddr,
    routes: Routes,
) -> BoxFuture<'static, Result<Response<Full<Bytes>>, Infallible>> {
    async move {
        let request = request.map(|body| body.map_err(|error| BodyError::new(&error)).boxed_unsync());
        Ok(rest.answer(request, peer, routes).await)
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
