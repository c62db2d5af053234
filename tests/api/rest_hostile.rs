//! Clients that hold connections, headers and bodies without ever completing a request.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Server, Setup, reply, server::ROOT};

/// Keys may be created without a credential, so that anonymous bodies are read.
const PUBLIC: &str = "[[keyspace]]\nname = \"x\"\nprefix = \"x_\"\nsecret = { encoding = \"base64url\", bytes = 32 }\n\
                      public_create = true\n";

/// Long enough that no timeout ends what a test holds.
const PATIENT: &str = "[server]\nbody_timeout = \"1m\"\n";

/// Resident memory of the server's process in MiB.
fn resident(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1_024
}

async fn send(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(&server.http).await.unwrap();
    // The server may close the connection before it has read everything.
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.write_all(bytes)).await;
    stream
}

/// Whether the server closes the connection within this time, whatever it sends before.
async fn closes(stream: &mut TcpStream, within: Duration) -> bool {
    let mut buffer = [0; 4_096];
    let reading = async { while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(within, reading).await.is_ok()
}

#[tokio::test]
async fn a_hundred_connections_with_half_sent_requests_take_a_bounded_memory() {
    let half_body = format!(
        "POST /api/v1/keys HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n{}",
        " ".repeat(990_000)
    );
    let half_headers = format!("GET /api/api-keys HTTP/1.1\r\nhost: x\r\nx-filler: {}", "a".repeat(380_000));
    for (kind, bytes) in [("bodies", half_body), ("headers", half_headers)] {
        let server = Setup::new().config(PUBLIC).and(PATIENT).start();
        server.create(json!({"name": "warm"})).await;
        let before = resident(&server);
        let mut kept_open = Vec::new();
        for _ in 0..100 {
            kept_open.push(send(&server, bytes.as_bytes()).await);
        }
        let added = resident(&server).saturating_sub(before);
        assert!(added <= 64, "half-sent {kind} take {added} MiB");
        // Authenticated calls and probes go on.
        server.create(json!({"name": "honest"})).await;
        reply(server.rest("GET", "/readyz")).await.good(200);
        drop(kept_open);
    }
}

#[tokio::test]
async fn past_the_memory_for_strangers_their_bodies_are_503_and_authenticated_calls_go_on() {
    let text = format!("{PUBLIC}{PATIENT}anonymous_memory_per_address = \"4MiB\"\n");
    let server = Setup::new().config(&text).start();
    let head =
        "POST /api/v1/keys HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n";
    let half = format!("{head}{}", " ".repeat(990_000));
    let mut kept_open = Vec::new();
    for _ in 0..8 {
        kept_open.push(send(&server, half.as_bytes()).await);
    }
    let mut body = json!({"name": "n"}).to_string();
    body.push_str(&" ".repeat(900_000));
    let create = |credential: Option<&str>| {
        let request = server.rest("POST", "/api/v1/keys").header("content-type", "application/json");
        let request = request.body(body.clone());
        if let Some(credential) = credential { request.bearer_auth(credential) } else { request }
    };
    let start = Instant::now();
    let refused = loop {
        let answer = reply(create(None)).await;
        if answer.status == 503 {
            break answer;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{answer:?}");
    };
    refused.refused(503, "unavailable");
    assert_eq!(refused.number("retry-after"), 1);
    reply(create(Some(ROOT))).await.good(201);
    // What was held is released with its connection.
    drop(kept_open);
    let start = Instant::now();
    while reply(create(None)).await.status == 503 {
        assert!(start.elapsed() < Duration::from_secs(20), "the memory is not released");
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_ends_at_its_timeout() {
    let server = Setup::new().config(PUBLIC).and("[server]\nbody_timeout = \"1s\"\n").start();
    let head =
        "POST /api/v1/keys HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    let mut stream = send(&server, head.as_bytes()).await;
    let mut answer = vec![0; 4_096];
    let read = tokio::time::timeout(Duration::from_secs(8), stream.read(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("did not arrive in time"), "{answer}");
}

#[tokio::test]
async fn silent_and_idle_connections_end() {
    let text = "[http]\nidle_timeout = \"1s\"\n[server]\nbody_timeout = \"1s\"\nwrite_timeout = \"1s\"\n";
    let server = Setup::new().config(PUBLIC).and(text).start();
    let get = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    // The preface of HTTP/2 and empty settings, which also set the window of every stream to 0.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0";
    // A request whose response has a body, of which nothing can be sent.
    let mut stalled = preface.to_vec();
    stalled.extend_from_slice(b"\0\0\x0d\x01\x05\0\0\0\x01\x82\x86\x41\x01x\x04\x06/ready");
    stalled.truncate(preface.len() + 9 + 13);
    let kinds: [(&str, &[u8]); 6] = [
        ("silent", b""),
        ("half headers", b"GET /healthz HTTP/1.1\r\nho"),
        ("half headers after a request", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /"),
        ("idle", get.as_bytes()),
        ("preface alone", preface),
        ("window 0", &stalled),
    ];
    let mut ends = Vec::new();
    for (kind, bytes) in kinds {
        let mut stream = send(&server, bytes).await;
        ends.push(async move { (kind, closes(&mut stream, Duration::from_secs(40)).await) });
    }
    for (kind, closed) in futures::future::join_all(ends).await {
        assert!(closed, "{kind}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_kept_longer_than_the_timeout_for_headers() {
    let server = Setup::new().start();
    let get = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut stream = send(&server, get.as_bytes()).await;
    assert!(!closes(&mut stream, Duration::from_secs(12)).await);
    stream.write_all(get.as_bytes()).await.unwrap();
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed() {
    let server = Setup::new().and("[server]\nwrite_timeout = \"1s\"\n").start();
    let mut stream = TcpStream::connect(&server.http).await.unwrap();
    let get = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(500);
    let start = Instant::now();
    // The requests fill the buffers of both sides, until the server gives up.
    while stream.write_all(get.as_bytes()).await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(30), "the server goes on");
    }
}

#[tokio::test]
async fn clients_that_hold_every_connection_keep_neither_probes_nor_callers_out() {
    let server = Setup::new().and("[server]\nmax_connections = 16\n").start();
    let caller = reqwest::Client::builder().no_proxy().build().unwrap();
    let list = async || {
        let request = caller.get(format!("http://{}/api/api-keys", server.http)).bearer_auth(ROOT);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(list().await, 200);
    let mut kept_open = Vec::new();
    for _ in 0..100 {
        kept_open.push(send(&server, b"GET /").await);
    }
    reply(server.rest("GET", "/readyz")).await.good(200);
    assert_eq!(list().await, 200);
    server.create(json!({"name": "n"})).await;
    assert!(closes(&mut kept_open[0], Duration::from_secs(5)).await);
}

#[tokio::test]
async fn one_address_holds_a_bounded_number_of_connections() {
    let server = Setup::new().and("[server]\nmax_connections_per_address = 4\n").start();
    let mut kept_open = Vec::new();
    for _ in 0..5 {
        kept_open.push(send(&server, b"GET /").await);
    }
    assert!(closes(&mut kept_open[0], Duration::from_secs(5)).await);
    assert!(!closes(&mut kept_open[4], Duration::from_millis(200)).await);
}
