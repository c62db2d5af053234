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
    hostile::{
        FLOOD, Flood, Hold, LONG, Polite, assert_bounded, flood_bytes, frame, hold, measurable, memory, mute_issuer,
        pour, table_bytes,
    },
    support::{Server, Setup, grpc::key, reply, server::ROOT},
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

/// Whether bytes wait in the system on their way to this address: in the sockets of its clients, or in its own.
fn in_flight(address: &str) -> bool {
    let port = format!(":{:04X}", address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap());
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    sockets.lines().skip(1).any(|line| {
        let [_, own, peer, state, queues, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else { return false };
        let (sending, unread) = queues.split_once(':').unwrap();
        let waiting = |queue: &str| queue != "00000000";
        // A listener has its connections in this column.
        state != "0A" && (own.ends_with(&port) && waiting(unread) || peer.ends_with(&port) && waiting(sending))
    })
}

/// Resident memory of the server's process in KiB, once it has read everything that was sent to this address.
async fn settled(server: &Server, address: &str) -> usize {
    let mut last = 0;
    loop {
        let now = usize::try_from(memory(server, "VmRSS") >> 10).unwrap();
        if now == last && !in_flight(address) {
            return now;
        }
        last = now;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn entries_of_the_header_table_take_bounded_memory() {
    let bytes = Arc::new(table_bytes());
    for port in ["http", "grpc"] {
        let server = measurable().start();
        let address = if port == "http" { &server.http } else { &server.grpc };
        let name = format!("{port}, entries of the header table");
        assert_bounded(&name, &server, || pour(address.clone(), bytes.clone(), true)).await;
    }
}

/// Clients that never send the last frame of a header list, nor answer anything.
#[tokio::test]
async fn half_sent_headers_share_the_memory_for_requests() {
    // No timeout ends what is held.
    let text = "[http]\nidle_timeout = \"10m\"\n[server]\nkeepalive_interval = \"10m\"\n";
    // As many small headers as fit into the list, which take the most memory, and the beginning of a large one.
    let small = (0..440).flat_map(|n| [b"\x00\x04", format!("a{n:03}").as_bytes(), b"\x00"].concat());
    let mut list: Vec<u8> = small.chain(*b"\x00\x01x\x7f\xa0\xf7\x36").collect();
    list.resize(16 << 10, b'a');
    let mut bytes = flood_bytes(&Flood { path: "/healthz", gets: true, streams: 1, ..FLOOD });
    frame(&mut bytes, 1, 1, 3, &list);
    for _ in 0..5 {
        frame(&mut bytes, 9, 0, 3, &vec![b'a'; 16 << 10]);
    }
    for port in ["http", "grpc"] {
        // A server of its own: memory that was freed would be used again.
        let server = measurable().config(text).start();
        let address = if port == "http" { &server.http } else { &server.grpc };
        let before = settled(&server, address).await;
        let mut streams = Vec::new();
        for _ in 0..600 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // Fails once the server has closed the connection.
            let _ = stream.write_all(&bytes).await;
            streams.push(stream);
        }
        let added = settled(&server, address).await.saturating_sub(before);
        assert!(added <= 64 << 10, "{port}: {added} KiB are added");
        let mut open = 0;
        for stream in &mut streams {
            open += usize::from(!ends(stream, Duration::from_millis(10)).await);
        }
        // Each takes 98 kB twice, less the 16 KiB that are free, and 96 KiB for its list: of 8 MiB for one address, 31 fit.
        assert!((20..=31).contains(&open), "{port}: {open} connections are open");
        server.logged("connection without a valid credential closed").await;
        key(&mut server.client().await, "", "acme", &[]).await;
    }
}

/// A client without a credential that has sent much on one connection is asked to make another one. No request is lost.
#[tokio::test]
async fn an_unauthenticated_connection_is_closed_gracefully_once_it_has_sent_256_kib() {
    let server = Setup::new().start();
    for credential in [None, Some(ROOT)] {
        let mut client = Polite::rest(&server.http).await;
        let mut answered = 0;
        while answered < 60
            && let Ok(ready) = client.sender.clone().ready().await
        {
            client.sender = ready;
            let filler = format!("{answered:08000}");
            let request = Request::get("http://keyward/api/api-keys").header("x-filler", filler);
            let request = match credential {
                Some(credential) => request.header("authorization", format!("Bearer {credential}")),
                None => request,
            };
            let Ok((answer, _)) = client.sender.send_request(request.body(()).unwrap(), true) else { break };
            let status = timeout(LONG, answer).await.unwrap().unwrap().status();
            assert_eq!(status, if credential.is_some() { 200 } else { 401 });
            answered += 1;
        }
        match credential {
            // A zero is compressed to five bits.
            None => {
                assert!((45..=56).contains(&answered), "{answered}");
                timeout(LONG, client.connection).await.unwrap().unwrap().unwrap();
            }
            Some(_) => assert_eq!(answered, 60),
        }
    }
}

/// Whether the server ends the connection within this time.
async fn ends(stream: &mut TcpStream, within: Duration) -> bool {
    let mut buffer = [0; 4_096];
    timeout(within, async { while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {} }).await.is_ok()
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
