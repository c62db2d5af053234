//! `/metrics`, `/healthz` and `/readyz` of an agent, over HTTP/1.1.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::state::Agent;

/// Connections at once. Further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// Timeout of a request's headers, which also bounds how long a connection may be idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of a whole connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_mins(5);
const MAX_HEADER_BYTES: usize = 16 << 10;
/// Pause after an accept that failed.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Serves for as long as it is polled.
pub(super) async fn run(listener: TcpListener, agent: Arc<Agent>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(RETRY_DELAY).await;
            continue;
        };
        let agent = Arc::clone(&agent);
        tokio::spawn(async move {
            let _ = timeout(CONNECTION_TIMEOUT, serve(stream, agent)).await;
            drop(permit);
        });
    }
}

async fn serve(stream: TcpStream, agent: Arc<Agent>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(&agent, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEADER_BYTES);
    // An error here is the client's, such as a broken connection.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

fn answer(agent: &Agent, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let has_path = matches!(path, "/metrics" | "/healthz" | "/readyz");
    let (status, kind, text) = match path {
        _ if has_path && method != Method::GET && method != Method::HEAD => {
            (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET or HEAD\n".to_owned())
        }
        "/metrics" => {
            let text = agent.counters.text(agent.client.attach_status());
            (StatusCode::OK, "text/plain; version=0.0.4", text)
        }
        "/healthz" => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        "/readyz" if agent.counters.is_serving() => (StatusCode::OK, "text/plain", "ready\n".to_owned()),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", "no replica answers\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "no such path\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
