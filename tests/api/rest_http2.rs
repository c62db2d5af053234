//! Hostile clients of the REST port that speak HTTP/2.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use http::Request;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    hostile::{FLOOD, Flood, Hold, LONG, Polite, assert_bounded, flood_bytes, hold, measurable, mute_issuer, pour},
    support::{Setup, reply, server::ROOT},
};

/// Keys may be created without a credential, so that anonymous bodies are read; and no timeout ends what is held.
const PUBLIC: &str = "[[keyspace]]\nname = \"x\"\nprefix = \"x_\"\nsecret = { encoding = \"base64url\", bytes = 32 }\n\
                      public_create = true\n[server]\nbody_timeout = \"1m\"\n";

#[tokio::test]
async fn half_sent_bodies_take_bounded_memory() {
    let (_listener, issuer, token) = mute_issuer();
    let issuer = issuer.replace("norrix", "x");
    for (name, path, credential, streams) in [
        ("REST, bodies of strangers", "/api/v1/keys", None, 128),
        ("REST, bodies of unknown sessions", "/api/api-keys", Some(token), 20),
    ] {
        let server = measurable().config(PUBLIC).and(&issuer).start();
        let taken = Arc::new(AtomicUsize::new(0));
        let kind = Hold { rest: true, path, credential, message: 1 << 20, streams };
        assert_bounded(name, &server, || hold(server.http.clone(), kind.clone(), Arc::clone(&taken))).await;
        assert!(taken.load(Ordering::Relaxed) > 100_000, "{name}: the attack sends nothing");
        reply(server.rest("GET", "/healthz")).await.good(200);
    }
}

#[tokio::test]
async fn requests_whose_responses_are_not_read_take_bounded_memory() {
    let server = measurable().start();
    let flood = Flood { path: "/openapi.json", gets: true, reads: false, ..FLOOD };
    let bytes = Arc::new(flood_bytes(&flood));
    assert_bounded("REST, responses are not read", &server, || pour(server.http.clone(), bytes.clone(), false)).await;
}

#[tokio::test]
async fn large_headers_take_bounded_memory() {
    let server = measurable().start();
    let flood = Flood { path: "/api/api-keys", gets: true, headers: 12_000, streams: 20, ..FLOOD };
    let bytes = Arc::new(flood_bytes(&flood));
    assert_bounded("REST, headers of 12 kB", &server, || pour(server.http.clone(), bytes.clone(), true)).await;
}

/// Clients such as curl 7.88 lose a response that ends its stream before they have sent a short body.
#[tokio::test]
async fn a_refused_request_is_answered_after_its_short_body() {
    let server = Setup::new().start();
    let mut client = Polite::rest(&server.http).await;
    let request = Request::post("http://keyward/api/api-keys");
    let request = request.header("content-type", "application/json").header("content-length", "2");
    let (answer, mut body) = client.sender.send_request(request.body(()).unwrap(), false).unwrap();
    // The stream is open as long as no response has come.
    let mut answer = tokio::spawn(answer);
    assert!(timeout(Duration::from_millis(100), &mut answer).await.is_err(), "answered before the body");
    body.send_data(Bytes::from_static(b"{}"), true).unwrap();
    assert_eq!(timeout(LONG, answer).await.unwrap().unwrap().unwrap().status(), 401);
    // One that does not come is not waited for.
    let request = Request::post("http://keyward/api/api-keys");
    let request = request.header("content-type", "application/json").header("content-length", "2");
    let (answer, _body) = client.sender.send_request(request.body(()).unwrap(), false).unwrap();
    assert_eq!(timeout(LONG, answer).await.unwrap().unwrap().status(), 401);
}

/// The status of a GET on this connection.
async fn get(client: &mut Polite, credential: &str) -> u16 {
    client.sender = client.sender.clone().ready().await.unwrap();
    let request = Request::get("http://keyward/api/api-keys").header("authorization", format!("Bearer {credential}"));
    let (answer, _) = client.sender.send_request(request.body(()).unwrap(), true).unwrap();
    timeout(LONG, answer).await.unwrap().unwrap().status().as_u16()
}

#[tokio::test]
async fn an_http2_connection_is_closed_after_twenty_refused_credentials_in_a_row() {
    let server = Setup::new().start();
    let mut client = Polite::rest(&server.http).await;
    for count in [19, 20] {
        for _ in 0..count {
            assert_eq!(get(&mut client, "ak_forged").await, 401);
        }
        if count == 19 {
            assert_eq!(get(&mut client, ROOT).await, 200);
        }
    }
    timeout(LONG, client.connection).await.unwrap().unwrap().unwrap();
}

/// Sends a GET, and returns the response's head.
async fn exchange(stream: &mut TcpStream, credential: &str) -> String {
    let request = format!("GET /api/api-keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {credential}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    loop {
        let mut buffer = [0; 4_096];
        let read = timeout(LONG, stream.read(&mut buffer)).await.unwrap().unwrap();
        assert!(read > 0, "closed after {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() >= length.parse().unwrap() {
            return head.to_owned();
        }
    }
}

#[tokio::test]
async fn a_connection_is_closed_after_twenty_refused_credentials_in_a_row() {
    let server = Setup::new().start();
    let mut stream = TcpStream::connect(&server.http).await.unwrap();
    for count in [19, 20] {
        for number in 1..=count {
            let head = exchange(&mut stream, "ak_forged").await;
            assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
            assert_eq!(head.contains("connection: close"), number == 20, "{number}: {head}");
        }
        if count == 19 {
            assert!(exchange(&mut stream, ROOT).await.starts_with("HTTP/1.1 200 "));
        }
    }
    assert_eq!(timeout(LONG, stream.read(&mut [0; 16])).await.unwrap().unwrap(), 0);
}

/// A caller whose key memory does not know, after a restart: a burst of more requests than a stranger may make.
#[tokio::test]
async fn a_burst_of_a_caller_that_is_not_in_memory_is_answered() {
    let mut server = Setup::new().start();
    let made = server.create(json!({"name": "n"})).await;
    let secret = made["key"].as_str().unwrap().to_owned();
    server.stop();
    let folder = server.folder().to_owned();
    let server = Setup::new().folder(&folder).start();
    let mut client = Polite::rest(&server.http).await;
    let mut answers = Vec::new();
    for _ in 0..60 {
        client.sender = client.sender.clone().ready().await.unwrap();
        let request = Request::get("http://keyward/api/v1/keys").header("authorization", format!("Bearer {secret}"));
        answers.push(client.sender.send_request(request.body(()).unwrap(), true).unwrap().0);
    }
    for answer in answers {
        assert_eq!(timeout(LONG, answer).await.unwrap().unwrap().status(), 200);
    }
}

/// A header that holds no valid credential opens no way around the bound.
#[tokio::test]
async fn a_stranger_makes_few_requests_at_once_on_one_connection() {
    let server = Setup::new().config(PUBLIC).start();
    for (name, value) in [("cookie", "a=b"), ("x-api-key", "x"), ("accept", "*/*")] {
        let mut client = Polite::rest(&server.http).await;
        let mut held = Vec::new();
        for _ in 0..20 {
            client.sender = client.sender.clone().ready().await.unwrap();
            let request = Request::post("http://keyward/api/v1/keys").header("content-type", "application/json");
            let request = request.header(name, value).body(()).unwrap();
            held.push(client.sender.send_request(request, false).unwrap());
        }
        // Which of them come first on the server's threads is open. Only those past the bound are answered.
        let (answers, _bodies): (FuturesUnordered<_>, Vec<_>) = held.into_iter().unzip();
        for answer in timeout(LONG, answers.take(4).collect::<Vec<_>>()).await.unwrap() {
            assert_eq!(answer.unwrap().status(), 503, "{name}");
        }
    }
}
