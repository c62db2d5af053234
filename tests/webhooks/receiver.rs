//! A receiver of webhooks that answers as a test wants, and keeps the requests.

#![allow(dead_code, reason = "each test target uses a part of this")]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::Notify,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

/// How a receiver answers a request.
#[derive(Clone)]
pub enum Reply {
    /// Answers with a status and a body.
    Status(u16, &'static str),
    /// Answers 200 once the gate is opened.
    Gate(Arc<Notify>),
    /// Never answers.
    Hang,
}

/// A request that was received.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it had arrived.
    pub at: Instant,
    /// Path and query.
    pub path: String,
    pub headers: HeaderMap,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

impl Request {
    /// A header as text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers)).to_str().unwrap()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The event's type.
    pub fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap().to_owned()
    }

    /// Whether the public library accepts its signature.
    pub fn is_by(&self, secret: &str) -> bool {
        standardwebhooks::Webhook::new(secret).unwrap().verify(&self.body, &self.headers).is_ok()
    }
}

/// A receiver on a free port; it stops when this is dropped.
pub struct Receiver {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    accepting: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Receiver {
    /// A receiver that answers by `reply`, which gets the number of the request (from 0) and the request.
    pub async fn start(reply: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(None, reply).await
    }

    /// A receiver that answers 200 over TLS.
    pub async fn over_tls(config: ServerConfig) -> Self {
        Self::listen(Some(TlsAcceptor::from(Arc::new(config))), |_, _| Reply::Status(200, "")).await
    }

    async fn listen(
        tls: Option<TlsAcceptor>,
        reply: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (kept, reply) = (Arc::clone(&requests), Arc::new(reply));
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, kept, reply) = (tls.clone(), Arc::clone(&kept), Arc::clone(&reply));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, kept, reply).await,
                        Some(tls) => serve(tls.accept(stream).await.ok()?, kept, reply).await,
                    }
                });
            }
        });
        Self { port, requests, accepting }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A receiver that answers 200.
    pub async fn good() -> Self {
        Self::start(|_, _| Reply::Status(200, "")).await
    }

    /// Its URL with this path.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Waits for this number of requests.
    pub async fn wait_for(&self, count: usize) -> Vec<Request> {
        self.wait_until(&format!("{count} requests"), |requests| requests.len() >= count).await
    }

    /// Waits until the requests are enough.
    pub async fn wait_until(&self, what: &str, enough: impl Fn(&[Request]) -> bool) -> Vec<Request> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(40) {
            let requests = self.requests();
            if enough(&requests) {
                return requests;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let received: Vec<_> = self.requests().iter().map(|r| String::from_utf8_lossy(&r.body).into_owned()).collect();
        panic!("{what} did not arrive: {received:#?}");
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    kept: Arc<Mutex<Vec<Request>>>,
    reply: Arc<impl Fn(usize, &Request) -> Reply + Send + Sync + 'static>,
) -> Option<()> {
    let request = read(&mut stream).await?;
    let number = {
        let mut kept = kept.lock().unwrap();
        kept.push(request.clone());
        kept.len() - 1
    };
    let (status, body) = match reply(number, &request) {
        Reply::Status(status, body) => (status, body),
        Reply::Gate(gate) => {
            gate.notified().await;
            (200, "")
        }
        Reply::Hang => {
            // Until the client closes the connection.
            let _ = stream.read(&mut [0]).await;
            return None;
        }
    };
    let head = format!("HTTP/1.1 {status} Status\r\nlocation: /elsewhere\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(body.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let mut lines = head.lines();
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        headers.append(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
    }
    let length: usize = headers.get("content-length")?.to_str().ok()?.parse().ok()?;
    let mut body = bytes.split_off(end);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Request { at: Instant::now(), path, headers, body })
}
