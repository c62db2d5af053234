//! The HTTP listener: HTTP/1.1 and HTTP/2, in plain text or under TLS, bounded in connections and in time.

use std::{net::IpAddr, pin::pin, sync::Arc, time::Duration};

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
};
use tokio_util::{io::InspectReader, task::TaskTracker};
use tower::ServiceExt as _;

use super::{activity::Activity, layers::HttpHandler};
use crate::{
    domain::clock::Entropy,
    transport::{
        accept::{Acceptor, Admission},
        charged_input::ChargedInput,
        listener::{AGE_GRACE, ListenerOptions},
        peer::Peer,
        tls::Port,
        write_timeout::WriteTimeout,
    },
};

/// The largest headers of a request. hyper buffers as much for each connection.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// HTTP/2: concurrent requests on a connection.
const MAX_STREAMS: u32 = 64;
/// HTTP/2: bytes that a client may send ahead of what is read, on a stream and on a connection.
const STREAM_WINDOW: u32 = 16 << 10;
const CONNECTION_WINDOW: u32 = 64 << 10;
/// How long requests in flight may go on once a connection is closed for its refused credentials.
const REFUSED_GRACE: Duration = Duration::from_secs(1);
/// HTTP/2: bytes of a response that wait for the client.
const MAX_SEND_BUFFER: usize = 64 << 10;

/// Serves until `options.stop` is cancelled, then lets requests in flight end.
pub async fn run(
    listener: Arc<TcpListener>,
    handler: HttpHandler,
    entropy: Arc<dyn Entropy>,
    options: ListenerOptions,
) {
    let mut acceptor = Acceptor::new(listener, Arc::clone(&options.connections));
    let connections = TaskTracker::new();
    while let Some((stream, address, admission)) = options.stop.run_until_cancelled(acceptor.accept()).await {
        let (handler, age, options) = (handler.clone(), options.connection_age(&*entropy), options.clone());
        connections.spawn(async move { serve(stream, address, admission, handler, age, &options).await });
    }
    drop(acceptor);
    connections.close();
    let _ = tokio::time::timeout(options.drain, connections.wait()).await;
}

async fn serve(
    stream: TcpStream,
    address: IpAddr,
    admission: Admission,
    handler: HttpHandler,
    age: Option<Duration>,
    options: &ListenerOptions,
) {
    let admission = Arc::new(admission);
    let activity = Activity::new(Arc::clone(&admission), options.budget.connection(address), options.timeouts);
    let (closing, timeout) = (options.stop.clone(), options.timeouts.write);
    let Some(tls) = &options.tls else {
        let peer = Peer { address, secure: false, caller: None, closing, admission };
        return serve_connection(WriteTimeout::new(stream, timeout), peer, activity, handler, age, options).await;
    };
    let accepted = tokio::select! {
        accepted = tls.accept(stream, address, Port::Rest) => accepted,
        () = options.stop.cancelled() => None,
        () = activity.admission.displaced() => None,
    };
    if let Some((stream, caller)) = accepted {
        if caller.is_some() {
            activity.admission.authenticated();
        }
        let peer = Peer { address, secure: true, caller, closing, admission };
        serve_connection(WriteTimeout::new(stream, timeout), peer, activity, handler, age, options).await;
    }
}

/// Serves one connection until the client closes it or is silent for too long, the listener stops or needs the slot, or
/// the connection reaches its maximum age. hyper-util's builder is used instead of `axum::serve`, which sets no timeouts.
async fn serve_connection<I>(
    io: I,
    peer: Peer,
    activity: Arc<Activity>,
    handler: HttpHandler,
    age: Option<Duration>,
    options: &ListenerOptions,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let peer = Arc::new(peer);
    let service = service_fn(|request: Request<Incoming>| {
        let active = activity.request();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Arc::clone(&peer));
        request.extensions_mut().insert(Arc::clone(&activity));
        let handling = handler.clone().oneshot(request);
        async move { handling.await.map(|response| active.until_sent(response)) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // hyper has one timeout for the wait for a request and for its headers, so use the longer of the two.
    let mut http1 = builder.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(options.timeouts.idle).half_close(true);
    http1.max_buf_size(MAX_HEADER_BYTES as usize);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
    http2.max_header_list_size(MAX_HEADER_BYTES).max_send_buf_size(MAX_SEND_BUFFER);
    http2.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    let observed = Arc::clone(&activity);
    let idle = Arc::clone(&activity);
    let (admission, budget) = (Arc::clone(&activity.admission), activity.budget.clone());
    let io = ChargedInput::new(io, admission, budget, move || idle.close_idle());
    let io = TokioIo::new(InspectReader::new(io, move |bytes: &[u8]| observed.received(bytes)));
    let mut connection = pin!(builder.serve_connection(io, service));
    let too_old = async {
        match age {
            Some(age) => tokio::time::sleep(age).await,
            None => std::future::pending().await,
        }
    };
    let grace = tokio::select! {
        biased;
        // The connection ends, or the client breaks it off: neither is an error of the server.
        _ = connection.as_mut() => return,
        () = activity.admission.displaced() => return,
        () = activity.expired() => return,
        () = options.stop.cancelled() => options.drain,
        () = too_old => AGE_GRACE,
        () = activity.closed_idle() => AGE_GRACE,
        () = activity.refused_too_often() => REFUSED_GRACE,
    };
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = tokio::time::timeout(grace, connection) => {}
        () = activity.expired() => {}
    }
}
