//! Requests that end with their key: the layer around axum and tonic services that would go on for ever.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::StatusCode;
use keyward::proto::CreateRequest;
use keyward_client::{AttachOptions, Client, KeywardLayer, WhileAway};
use reqwest::Response;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tonic::{
    Code, Request, Status,
    server::{Grpc, NamedService, ServerStreamingService, UnaryService},
    service::Routes,
    transport::Channel,
};
use tonic_prost::ProstCodec;
use tower::{Layer as _, Service};

use crate::{
    attach::{LONG, attached, key, warm},
    client,
    proxy::Proxy,
    support::{
        Setup,
        grpc::{self, Made, Refusal, eventually, own_limit, ttl},
        server::with,
    },
};

/// The number of requests and streams that the service works on.
#[derive(Clone, Default)]
struct Running(Arc<AtomicUsize>);

impl Running {
    /// Counts one until the guard is dropped.
    fn begin(&self) -> RunningGuard {
        self.0.fetch_add(1, Ordering::SeqCst);
        RunningGuard(Arc::clone(&self.0))
    }

    async fn becomes(&self, expected: usize) {
        eventually(LONG, &format!("{expected} are running"), async || self.0.load(Ordering::SeqCst) == expected).await;
    }
}

struct RunningGuard(Arc<AtomicUsize>);

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn guard(client: Client) -> KeywardLayer {
    KeywardLayer::builder(client, "default").end_work().build().unwrap()
}

/// A stream that goes on for ever: its first item, and then nothing.
fn endless<T>(guard: RunningGuard, first: T) -> impl Stream<Item = T> {
    stream::iter([first]).chain(stream::pending()).inspect(move |_| _ = &guard)
}

/// Starts an axum service whose requests go on for ever, but for `/quick`; its URL.
async fn start(guard: KeywardLayer, running: &Running) -> String {
    let (first, second, third) = (running.clone(), running.clone(), running.clone());
    let wait = async move || {
        let _guard = first.begin();
        std::future::pending::<String>().await
    };
    let body = async move || Body::from_stream(endless(second.begin(), Ok::<_, Infallible>("first")));
    let flood = async move || {
        let guard = third.begin();
        Body::from_stream(stream::repeat_with(move || {
            _ = &guard;
            Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 1_024]))
        }))
    };
    let service = Router::new()
        .route("/quick", get(async || "done"))
        .route("/wait", get(wait))
        .route("/body", get(body))
        .route("/flood", get(flood))
        .layer(guard);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, service).await });
    url
}

async fn request(url: &str, path: &str, secret: &str) -> Response {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.get(format!("{url}{path}")).bearer_auth(secret).send().await.unwrap()
}

/// A request beside the test.
fn begin(url: &str, path: &str, key: &Made) -> tokio::task::JoinHandle<Response> {
    let (url, path, secret) = (url.to_owned(), path.to_owned(), key.secret.clone());
    tokio::spawn(async move { request(&url, &path, &secret).await })
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("it ends in time")
}

/// Asserts that a request was ended with the contract's 401.
async fn unauthorized(response: Response, code: &str) {
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    for header in ["www-authenticate", "x-request-id"] {
        assert!(response.headers().contains_key(header), "{header}");
    }
    let body: Value = response.json().await.unwrap();
    assert_eq!(body, json!({"error": "Unauthorized", "message": "Invalid or expired API key", "code": code}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_under_a_revoked_key_is_dropped_and_answered_401_and_others_go_on() {
    let server = Setup::new().start();
    let client = attached(&server.grpc, AttachOptions::default());
    let running = Running::default();
    let url = start(guard(client.clone()), &running).await;
    let (first, other) = (key(&server, CreateRequest::default()).await, key(&server, CreateRequest::default()).await);
    let (ended, goes_on) = (begin(&url, "/wait", &first), begin(&url, "/wait", &other));
    running.becomes(2).await;
    let mut operator = server.client().await;
    grpc::revoke(&mut operator, &first.id).await;
    unauthorized(in_time(ended).await.unwrap(), "revoked").await;
    running.becomes(1).await;
    assert!(!goes_on.is_finished());
    assert_eq!(request(&url, "/quick", &other.secret).await.text().await.unwrap(), "done");
    grpc::revoke(&mut operator, &other.id).await;
    unauthorized(in_time(goes_on).await.unwrap(), "revoked").await;
    running.becomes(0).await;
    assert_eq!(client.attach_status().unwrap().waiters, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_has_begun_ends_with_an_error() {
    let server = Setup::new().start();
    let running = Running::default();
    let url = start(guard(attached(&server.grpc, AttachOptions::default())), &running).await;
    for path in ["/body", "/flood"] {
        let made = key(&server, CreateRequest::default()).await;
        let mut response = request(&url, path, &made.secret).await;
        assert_eq!(response.status(), 200);
        assert!(response.chunk().await.unwrap().is_some());
        grpc::revoke(&mut server.client().await, &made.id).await;
        // What was on its way, and then the error: not the end of a whole body.
        in_time(async {
            while let Ok(chunk) = response.chunk().await {
                assert!(chunk.is_some(), "{path}: whole");
            }
        })
        .await;
        running.becomes(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_key_expires_is_answered_401() {
    let server = Setup::new().start();
    let running = Running::default();
    let url = start(guard(attached(&server.grpc, AttachOptions::default())), &running).await;
    let made = key(&server, CreateRequest { expiry: ttl(Duration::from_secs(3)), ..Default::default() }).await;
    let response = in_time(begin(&url, "/wait", &made)).await.unwrap();
    unauthorized(response, "expired").await;
    running.becomes(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_a_rate_limit_is_on_the_401_of_its_key() {
    let server = Setup::new().start();
    let running = Running::default();
    let url = start(guard(attached(&server.grpc, AttachOptions::default())), &running).await;
    let made = key(&server, CreateRequest { rate_limit: Some(own_limit(5, 3_600)), ..Default::default() }).await;
    let ended = begin(&url, "/wait", &made);
    running.becomes(1).await;
    grpc::revoke(&mut server.client().await, &made.id).await;
    let response = in_time(ended).await.unwrap();
    assert_eq!(response.headers()["x-ratelimit-remaining"], "4");
    unauthorized(response, "revoked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_end_only_where_that_is_asked_for_and_possible() {
    let server = Setup::new().start();
    let alone = KeywardLayer::builder(client(&server), "default").end_work().build();
    assert_eq!(alone.unwrap_err().setting(), "end_work", "it cannot watch keys");
    let running = Running::default();
    let attached = attached(&server.grpc, AttachOptions::default());
    let url = start(KeywardLayer::builder(attached, "default").build().unwrap(), &running).await;
    let made = key(&server, CreateRequest::default()).await;
    let goes_on = begin(&url, "/wait", &made);
    running.becomes(1).await;
    grpc::revoke(&mut server.client().await, &made.id).await;
    assert_eq!(request(&url, "/quick", &made.secret).await.status(), 401);
    assert!(!goes_on.is_finished());
    running.becomes(1).await;
    goes_on.abort();
    running.becomes(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_pass_without_keyward_until_the_lease_ends_or_not_at_all() {
    let server = Setup::new().env("KEYWARD_ATTACH_LEASE", "20s").env("KEYWARD_REPLICA_LEASE", "60s").start();
    let made = key(&server, CreateRequest::default()).await;
    for (while_away, status) in [(WhileAway::UntilLeaseEnds, 200), (WhileAway::Refuse, 503)] {
        let proxy = Proxy::start(server.grpc.parse::<SocketAddr>().unwrap()).await;
        let client = attached(&proxy.address().to_string(), AttachOptions::default().while_away(while_away));
        let url = start(guard(client.clone()), &Running::default()).await;
        warm(&client, &made.secret).await;
        proxy.down(true);
        if status == 503 {
            eventually(LONG, "memory has ended", async || !client.attach_status().unwrap().live).await;
        }
        assert_eq!(request(&url, "/quick", &made.secret).await.status(), status, "{while_away:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_key_no_lease_covers_is_answered_503_after_the_grace_period() {
    let server = Setup::new().env("KEYWARD_ATTACH_LEASE", "1s").start();
    let proxy = Proxy::start(server.grpc.parse::<SocketAddr>().unwrap()).await;
    let options = AttachOptions::default().grace_period(Duration::from_secs(1));
    let client = attached(&proxy.address().to_string(), options);
    let running = Running::default();
    let url = start(guard(client.clone()), &running).await;
    let made = key(&server, CreateRequest::default()).await;
    let ended = begin(&url, "/wait", &made);
    eventually(LONG, "it waits", async || ended.is_finished() || client.attach_status().unwrap().waiters == 1).await;
    proxy.silence(true);
    let response = in_time(ended).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    assert_eq!(response.json::<Value>().await.unwrap()["code"], "unavailable");
    running.becomes(0).await;
}

/// A gRPC service whose calls go on for ever: a unary one, and one that streams.
#[derive(Clone)]
struct Endless(Running);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl UnaryService<()> for Endless {
    type Response = String;
    type Future = Boxed<Result<tonic::Response<String>, Status>>;

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let guard = self.0.begin();
        Box::pin(async move {
            let _guard = guard;
            std::future::pending().await
        })
    }
}

impl ServerStreamingService<()> for Endless {
    type Response = String;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let stream = endless(self.0.begin(), Ok("first".to_owned()));
        std::future::ready(Ok(tonic::Response::new(Box::pin(stream))))
    }
}

impl NamedService for Endless {
    const NAME: &'static str = "example.Endless";
}

impl Service<http::Request<tonic::body::Body>> for Endless {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Boxed<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<String, ()>::default());
            Ok(if request.uri().path().ends_with("Stream") {
                grpc.server_streaming(service, request).await
            } else {
                grpc.unary(service, request).await
            })
        })
    }
}

/// A client of the service.
async fn endless_client(client: Client, running: &Running) -> tonic::client::Grpc<Channel> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let routes = Routes::new(guard(client).layer(Endless(running.clone())));
    tokio::spawn(tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(incoming));
    let mut grpc = tonic::client::Grpc::new(Channel::from_shared(url).unwrap().connect().await.unwrap());
    grpc.ready().await.unwrap();
    grpc
}

fn assert_ended(status: &Status) {
    let refusal = Refusal::of(status);
    assert_eq!((refusal.code, &*refusal.reason), (Code::Unauthenticated, "REVOKED"), "{status:?}");
    assert_eq!(refusal.message, "Invalid or expired API key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_ends_unauthenticated() {
    let server = Setup::new().start();
    let running = Running::default();
    let mut grpc = endless_client(attached(&server.grpc, AttachOptions::default()), &running).await;
    let made = key(&server, CreateRequest::default()).await;
    let path = http::uri::PathAndQuery::from_static("/example.Endless/Unary");
    let secret = made.secret.clone();
    let call =
        tokio::spawn(async move { grpc.unary(with(&secret, ()), path, ProstCodec::<(), String>::default()).await });
    running.becomes(1).await;
    grpc::revoke(&mut server.client().await, &made.id).await;
    assert_ended(&in_time(call).await.unwrap().unwrap_err());
    running.becomes(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_stream_that_has_begun_ends_unauthenticated_and_others_go_on() {
    let server = Setup::new().start();
    let running = Running::default();
    let mut grpc = endless_client(attached(&server.grpc, AttachOptions::default()), &running).await;
    let (first, other) = (key(&server, CreateRequest::default()).await, key(&server, CreateRequest::default()).await);
    let mut open = async |made: &Made| {
        grpc.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/example.Endless/Stream");
        let opened = grpc.server_streaming(with(&made.secret, ()), path, ProstCodec::<(), String>::default());
        let mut stream = opened.await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().as_deref(), Some("first"));
        stream
    };
    let (mut ended, mut goes_on) = (open(&first).await, open(&other).await);
    running.becomes(2).await;
    grpc::revoke(&mut server.client().await, &first.id).await;
    assert_ended(&in_time(ended.message()).await.unwrap_err());
    running.becomes(1).await;
    grpc::revoke(&mut server.client().await, &other.id).await;
    assert_ended(&in_time(goes_on.message()).await.unwrap_err());
}
