//! The layer around an axum service: the example's.

use std::time::Duration;

use http::StatusCode;
use keyward::proto::CreateRequest;
use keyward_client::Client;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    axum_service, builder, client,
    support::{
        Server, Setup,
        grpc::{self, Made, forged, own_limit, texts},
        server::ROOT,
    },
};

/// Starts the example's service; its URL.
async fn start(client: Client) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum_service::service(client).unwrap()).await });
    url
}

async fn key(server: &Server, request: CreateRequest) -> Made {
    grpc::made(grpc::create(&mut server.client().await, ROOT, request).await)
}

async fn call(url: &str, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.request(method, format!("{url}{path}"));
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
}

async fn get(url: &str, path: &str, secret: &str) -> Response {
    call(url, Method::GET, path, &[("authorization", &format!("Bearer {secret}"))]).await
}

fn header(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
}

/// Asserts a refusal with one of the contract's bodies.
async fn refused(response: Response, status: u16, message: &str, code: &str) {
    let error = StatusCode::from_u16(status).unwrap().canonical_reason().unwrap();
    assert_eq!(response.status().as_u16(), status);
    assert_eq!(header(&response, "content-type").as_deref(), Some("application/json"));
    assert_eq!(header(&response, "www-authenticate").is_some(), status == 401);
    assert!(header(&response, "x-request-id").is_some_and(|id| id.starts_with("req_")));
    let body: Value = response.json().await.unwrap();
    assert_eq!(body, json!({"error": error, "message": message, "code": code}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_key_reaches_the_handler_with_its_principal() {
    let server = Setup::new().start();
    let url = start(client(&server)).await;
    let request = CreateRequest { organization: "acme".into(), scopes: texts(&["build"]), ..Default::default() };
    let key = key(&server, request).await;
    let response = get(&url, "/api/builds/7", &key.secret).await;
    assert_eq!(response.status(), 200);
    assert!(header(&response, "x-request-id").is_some() && header(&response, "x-ratelimit-limit").is_none());
    assert_eq!(response.text().await.unwrap(), format!("build 7, read by {}", key.id));
    let bearer = format!("Bearer {}", key.secret);
    let headers = [("authorization", &*bearer), ("x-request-id", "trace-1")];
    let response = call(&url, Method::POST, "/api/builds", &headers).await;
    assert_eq!(header(&response, "x-request-id").as_deref(), Some("trace-1"));
    assert_eq!(response.text().await.unwrap(), "build started for acme");
    assert_eq!(call(&url, Method::GET, "/healthz", &[]).await.text().await.unwrap(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_the_contracts() {
    let server = Setup::new().start();
    let url = start(client(&server)).await;
    let plain = key(&server, CreateRequest::default()).await;
    let revoked = key(&server, CreateRequest::default()).await;
    grpc::revoke(&mut server.client().await, &revoked.id).await;
    let path = "/api/builds/7";
    let invalid = "Invalid or expired API key";
    refused(call(&url, Method::GET, path, &[]).await, 401, "No authentication provided", "missing_credential").await;
    let key_header = [("x-api-key", &*plain.secret)];
    refused(call(&url, Method::GET, path, &key_header).await, 401, "No authentication provided", "missing_credential")
        .await;
    refused(get(&url, path, &forged(&plain.secret)).await, 401, invalid, "malformed").await;
    refused(get(&url, path, &revoked.secret).await, 401, invalid, "revoked").await;
    refused(get(&url, path, ROOT).await, 401, invalid, "malformed").await;
    let bearer = format!("Bearer {}", plain.secret);
    let post = call(&url, Method::POST, "/api/builds", &[("authorization", &bearer)]).await;
    refused(post, 403, "API key does not have 'build' scope", "insufficient_scope").await;
    refused(get(&url, "/elsewhere", &plain.secret).await, 403, "No rule allows this request", "no_route").await;
    // The test's client resolves `..` itself, also an encoded one.
    for path in ["/api/builds/a%2eb", "/api/builds%2f7", "/api//builds"] {
        refused(get(&url, path, &plain.secret).await, 400, "The path can be read in two ways", "ambiguous_path").await;
    }
    let twice = [("authorization", &*bearer), ("authorization", &*bearer)];
    let message = "authorization: two credentials count in this request; send one";
    refused(call(&url, Method::GET, path, &twice).await, 400, message, "invalid_argument").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_a_rate_limit_is_on_every_response_of_its_key() {
    let server = Setup::new().start();
    let url = start(client(&server)).await;
    let request = CreateRequest { rate_limit: Some(own_limit(2, 3_600)), ..Default::default() };
    let key = key(&server, request).await;
    for remaining in ["1", "0"] {
        let response = get(&url, "/api/builds/7", &key.secret).await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "x-ratelimit-limit").as_deref(), Some("2"));
        assert_eq!(header(&response, "x-ratelimit-remaining").as_deref(), Some(remaining));
        let reset: i64 = header(&response, "x-ratelimit-reset").unwrap().parse().unwrap();
        assert!(reset * 1_000 > grpc::now(), "{reset}");
    }
    let response = get(&url, "/api/builds/7", &key.secret).await;
    assert_eq!(header(&response, "x-ratelimit-remaining").as_deref(), Some("0"));
    let retry: u64 = header(&response, "retry-after").unwrap().parse().unwrap();
    assert!((3_000..=4_500).contains(&retry), "{retry}");
    refused(response, 429, "Rate limit exceeded", "rate_limited").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_let_through_while_keyward_is_unavailable_or_refuses_the_service() {
    let mut server = Setup::new().start();
    let key = key(&server, CreateRequest::default()).await;
    let short = Duration::from_millis(500);
    let url = start(builder(&server).credential(ROOT).timeout(short).build().unwrap()).await;
    let unknown = start(builder(&server).credential("kw_unknown").build().unwrap()).await;
    assert_eq!(get(&url, "/api/builds/7", &key.secret).await.status(), 200);
    refused(get(&unknown, "/api/builds/7", &key.secret).await, 503, "Try again", "unavailable").await;
    assert_eq!(tokio::task::block_in_place(|| server.stop()), Some(0));
    let response = get(&url, "/api/builds/7", &key.secret).await;
    assert_eq!(header(&response, "retry-after").as_deref(), Some("1"));
    refused(response, 503, "Try again", "unavailable").await;
    assert_eq!(call(&url, Method::GET, "/healthz", &[]).await.status(), 200, "public routes do not ask");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_by_the_next_request() {
    let server = Setup::new().start();
    let url = start(client(&server)).await;
    let key = key(&server, CreateRequest::default()).await;
    assert_eq!(get(&url, "/api/builds/7", &key.secret).await.status(), 200);
    grpc::revoke(&mut server.client().await, &key.id).await;
    assert_eq!(get(&url, "/api/builds/7", &key.secret).await.status(), 401);
}
