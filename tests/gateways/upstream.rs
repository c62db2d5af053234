//! An upstream that answers with what reached it.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::raw;

/// The body of a response that a request asks for by `X-Answer`.
pub const OWN_BODY: &str = "the upstream's own";

/// A running upstream; it ends with the test.
pub struct Upstream {
    pub port: u16,
    started: Arc<AtomicUsize>,
}

impl Upstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let started = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&started);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        counter.fetch_add(1, Ordering::SeqCst);
                        echo(request)
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
                });
            }
        });
        Self { port, started }
    }

    /// How many requests have reached it, with their heads at least.
    pub fn requests(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }
}

async fn echo(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.headers().get("upgrade").is_some() {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgraded.await.unwrap());
            let mut piece = [0; 1024];
            while let Ok(read) = stream.read(&mut piece).await {
                if read == 0 || stream.write_all(&piece[..read]).await.is_err() {
                    break;
                }
            }
        });
        let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
        // What belongs to the key of the example in RFC 6455, which the tests send. HAProxy wants it.
        let response = response.header("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        return Ok(response.body(Full::default()).unwrap());
    }
    // A response of its own, for a test of what the gateway makes of it.
    if let Some(status) = request.headers().get("x-answer") {
        let response =
            Response::builder().status(status.as_bytes()).header("x-own", "kept").header("retry-after", "77");
        return Ok(response.body(Full::new(OWN_BODY.into())).unwrap());
    }
    let (head, mut body) = request.into_parts();
    let mut length = 0;
    while let Some(Ok(frame)) = body.frame().await {
        length += frame.data_ref().map_or(0, Bytes::len);
    }
    let headers: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let seen =
        json!({"method": head.method.as_str(), "target": head.uri.to_string(), "headers": headers, "length": length});
    Ok(Response::new(Full::new(seen.to_string().into())))
}

/// What reached the upstream, from its response.
#[derive(Debug)]
pub struct Seen(pub Value);

impl Seen {
    /// The request passed.
    #[track_caller]
    pub fn of(response: &raw::Response) -> Self {
        assert_eq!(response.status, 200, "{response:?}");
        Self(response.json())
    }

    /// The values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let headers = self.0["headers"].as_array().unwrap().iter();
        headers.filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap()).collect()
    }

    /// A header; empty if it is absent, which is all that some gateways can do about an empty one.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        match self.all(name)[..] {
            [] => "",
            [only] => only,
            _ => panic!("{name} is there twice: {self:?}"),
        }
    }

    /// Every value whose header's name passes for one of Keyward's.
    pub fn aliases(&self) -> Vec<(String, String)> {
        let headers = self.0["headers"].as_array().unwrap().iter();
        headers
            .map(|pair| (pair[0].as_str().unwrap().replace(['_', '.'], "-"), pair[1].as_str().unwrap().to_owned()))
            .filter(|(name, _)| name.starts_with("x-keyward"))
            .collect()
    }
}
