//! The loopback redirect (RFC 8252, section 7.3): a listener on 127.0.0.1 that takes one callback.

use std::{collections::HashMap, convert::Infallible, net::Ipv4Addr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::cli::client::{
    failure::{Failure, Result},
    text::escape,
};

/// Connections at once. Any local process can connect.
const MAX_CONNECTIONS: usize = 16;
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
const PATH: &str = "/callback";

/// A listener that waits for the browser.
pub struct Loopback {
    listener: TcpListener,
    port: u16,
}

/// The parameters of the redirect from the issuer. `done` receives the page to show.
pub struct Callback {
    pub parameters: HashMap<String, String>,
    pub done: oneshot::Sender<Page>,
}

/// What the browser shows at the end.
#[derive(Debug, Clone)]
pub enum Page {
    SignedIn,
    Failed(String),
}

impl Loopback {
    /// Listens on one of these ports, or on any if there are none.
    ///
    /// # Errors
    ///
    /// Each of them is in use.
    pub async fn bind(ports: &[u16]) -> Result<Self> {
        let any = [0];
        let mut last = None;
        for port in if ports.is_empty() { &any[..] } else { ports } {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).await {
                Ok(listener) => {
                    let port = listener.local_addr().map_or(*port, |address| address.port());
                    return Ok(Self { listener, port });
                }
                Err(error) => last = Some(error),
            }
        }
        let why = last.map(|error| error.to_string()).unwrap_or_default();
        Err(Failure::new(format_args!("no port of 127.0.0.1 for the browser to come back to: {why}")))
    }

    /// The redirect URI.
    pub fn redirect_uri(&self) -> String {
        format!("http://127.0.0.1:{}{PATH}", self.port)
    }

    /// Serves until the callback with this state arrives. Any other request has no effect: any web page can send the
    /// browser here, too.
    pub async fn callback(&self, state: &str) -> Callback {
        let (sender, mut receiver) = mpsc::channel(1);
        let state: Arc<str> = state.into();
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            tokio::select! {
                Some(callback) = receiver.recv() => return callback,
                accepted = self.listener.accept() => {
                    let Ok((stream, _)) = accepted else {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    };
                    let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
                    let (sender, state) = (sender.clone(), Arc::clone(&state));
                    tokio::spawn(async move {
                        let answer = service_fn(move |request| answer(request, Arc::clone(&state), sender.clone()));
                        let mut http = http1::Builder::new();
                        http.timer(TokioTimer::new()).header_read_timeout(CONNECTION_TIMEOUT).max_buf_size(16 << 10);
                        // A browser may open connections that it does not use.
                        let serve = http.keep_alive(false).serve_connection(TokioIo::new(stream), answer);
                        let _ = timeout(CONNECTION_TIMEOUT, serve).await;
                        drop(slot);
                    });
                }
            }
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<str>,
    callbacks: mpsc::Sender<Callback>,
) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != PATH || request.method() != Method::GET {
        return Ok(page(StatusCode::NOT_FOUND, "There is nothing here."));
    }
    let query = request.uri().query().unwrap_or_default();
    let mut parameters = HashMap::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if parameters.insert(name.into_owned(), value.into_owned()).is_some() {
            return Ok(page(StatusCode::BAD_REQUEST, "This is not the sign-in that was begun. Try again."));
        }
    }
    if parameters.get("state").map(String::as_str) != Some(&*state) {
        return Ok(page(StatusCode::BAD_REQUEST, "This is not the sign-in that was begun. Try again."));
    }
    let (done, result) = oneshot::channel();
    // Only the first callback counts.
    if callbacks.try_send(Callback { parameters, done }).is_err() {
        return Ok(page(StatusCode::GONE, "This sign-in is over."));
    }
    Ok(match result.await {
        Ok(Page::SignedIn) => {
            page(StatusCode::OK, "You are signed in. You can close this window and go back to the terminal.")
        }
        Ok(Page::Failed(why)) => page(StatusCode::BAD_REQUEST, &format!("Signing in failed: {why}")),
        Err(_) => page(StatusCode::BAD_REQUEST, "Signing in failed. The terminal says why."),
    })
}

fn page(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let text = escape(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Sign-in</title>\
         <body style=\"font:1.1rem system-ui;margin:4rem auto;max-width:30rem\"><p>{text}</p></body></html>"
    );
    let mut response = Response::new(Full::new(Bytes::from(html)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    );
    response
}
