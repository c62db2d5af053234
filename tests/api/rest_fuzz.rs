//! Random requests: no 500, no panic, and the server stays up.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

use crate::support::{Server, Setup, reply, server::ROOT};

/// Number of cases of each test. A failure prints the seed that repeats it.
const TIME: Duration = Duration::from_secs(3);

const WORDS: [&str; 28] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "true",
    "1e999",
    "-0",
    "\\u0000",
    "\\ud800",
    "\"name\"",
    "\"scopes\"",
    "\"webhook\"",
    "\"https://e.example\"",
    "\"expiresAt\"",
    "\"9999-12-31T23:59:60Z\"",
    "\"expiresInDays\"",
    "\"metadata\"",
    "\"orgId\"",
    "\"secret\"",
    "\"cost\"",
    "\"keyspace\"",
    "\"nora\"",
    "9223372036854775808",
    "é",
];

/// Random bytes, sometimes almost JSON.
fn bytes(rng: &mut StdRng) -> Vec<u8> {
    let mut out = Vec::new();
    let words = rng.random_bool(0.7);
    for _ in 0..rng.random_range(0..40) {
        if words {
            out.extend_from_slice(WORDS[rng.random_range(0..WORDS.len())].as_bytes());
        } else {
            out.push(rng.random());
        }
    }
    out
}

/// A good body in which one field has a random value.
fn nearly(rng: &mut StdRng) -> Vec<u8> {
    let fields = [
        "name",
        "scopes",
        "webhook",
        "expiresAt",
        "expiresInDays",
        "metadata",
        "orgId",
        "instanceId",
        "environment",
        "keyspace",
        "secret",
        "cost",
        "rateLimit",
        "requiredScopes",
    ];
    let values = [
        json!("\u{0}"),
        json!("\u{10ffff}"),
        json!(""),
        json!("a".repeat(300)),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1.5e300),
        json!([]),
        json!([""]),
        json!({}),
        json!({"": ""}),
        json!({"a": "\u{0}"}),
        json!(null),
        json!("-9999-01-01T00:00:00Z"),
        json!("9999-12-31T23:59:59.999999999+23:59"),
        json!("https://\u{0}"),
        json!("https://xn--/"),
        json!("noro"),
        json!("'; DROP TABLE keyward_keys; --"),
        json!(["a", "a"]),
    ];
    let mut body = json!({});
    for _ in 0..rng.random_range(1..4) {
        body[fields[rng.random_range(0..fields.len())]] = values[rng.random_range(0..values.len())].clone();
    }
    body.to_string().into_bytes()
}

fn survived(server: &Server, status: u16, what: &dyn std::fmt::Debug) {
    assert!((200..500).contains(&status), "{status} for {what:?}\n{}", server.log());
}

async fn is_well(server: &Server) {
    reply(server.rest("GET", "/readyz")).await.good(200);
    let log = server.log();
    assert!(!log.contains("panicked") && !log.contains("INTERNAL"), "{log}");
}

#[tokio::test]
async fn random_bodies_are_accepted_or_refused_without_an_internal_error() {
    let server = Setup::new().ready("all").start();
    let key = server.create(json!({"name": "n", "keyspace": "norrix", "orgId": "o", "scopes": ["admin"]})).await;
    let one = format!("/api/api-keys/{}", key["id"].as_str().unwrap());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let (mut rng, start) = (StdRng::seed_from_u64(1), Instant::now());
    while start.elapsed() < TIME {
        let body = if rng.random_bool(0.5) { bytes(&mut rng) } else { nearly(&mut rng) };
        let calls =
            [("POST", "/api/v1/keys"), ("POST", "/api/api-keys"), ("POST", "/api/v1/verify"), ("PATCH", one.as_str())];
        let (method, path) = calls[rng.random_range(0..calls.len())];
        let bearer = [ROOT, key["key"].as_str().unwrap()][rng.random_range(0..2)];
        let request = client
            .request(method.parse().unwrap(), format!("http://{}{path}", server.http))
            .header("content-type", "application/json")
            .bearer_auth(bearer)
            .body(body.clone());
        let answer = reply(request).await;
        survived(&server, answer.status, &(path, String::from_utf8_lossy(&body)));
        answer.json();
    }
    is_well(&server).await;
}

#[tokio::test]
async fn random_queries_and_ids_are_accepted_or_refused_without_an_internal_error() {
    let server = Setup::new().ready("all").start();
    let (mut rng, start) = (StdRng::seed_from_u64(2), Instant::now());
    while start.elapsed() < TIME {
        let mut escaped = String::new();
        for _ in 0..rng.random_range(0..12) {
            let names = ["status=", "limit=", "cursor=", "orgId=", "keyspace=", "createdBy=", "&", "=", "%", "+", ";"];
            if rng.random_bool(0.4) {
                escaped.push_str(names[rng.random_range(0..names.len())]);
            } else {
                let _ = std::fmt::Write::write_fmt(&mut escaped, format_args!("%{:02x}", rng.random::<u8>()));
            }
        }
        let path = if rng.random_bool(0.5) { "/api/api-keys?" } else { "/api/api-keys/" };
        let target = format!("{path}{escaped}");
        let head =
            format!("GET {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ROOT}\r\nconnection: close\r\n\r\n");
        let answer = exchange(&server, head.as_bytes(), Duration::from_secs(5));
        survived(&server, status(&answer).unwrap_or_else(|| panic!("no answer to {target}")), &target);
    }
    is_well(&server).await;
}

#[tokio::test]
async fn random_headers_and_bytes_on_the_wire_leave_the_server_up() {
    let server = Setup::new().ready("all").start();
    let (mut rng, start) = (StdRng::seed_from_u64(3), Instant::now());
    while start.elapsed() < TIME {
        let mut request = Vec::new();
        if rng.random_bool(0.8) {
            let paths = ["/api/v1/keys", "/api/api-keys", "/api/v1/verify", "*", "//", "http://x/api/v1/keys", "/%"];
            let methods = ["GET", "POST", "DELETE", "PATCH", "FOO"];
            let (method, path) = (methods[rng.random_range(0..5)], paths[rng.random_range(0..paths.len())]);
            request
                .extend_from_slice(format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n").as_bytes());
            let names = [
                "authorization",
                "x-api-key",
                "x-request-id",
                "x-forwarded-for",
                "content-type",
                "cookie",
                "expect",
                "content-length",
                "transfer-encoding",
                "upgrade",
                "te",
            ];
            for _ in 0..rng.random_range(0..6) {
                let name = names[rng.random_range(0..names.len())];
                request.extend_from_slice(format!("{name}: ").as_bytes());
                if name == "authorization" && rng.random_bool(0.7) {
                    request.extend_from_slice(b"Bearer ");
                }
                let prefixes = [&b"noro_"[..], b"sk_test_", b"nrx_", b"kw_", b""];
                request.extend_from_slice(prefixes[rng.random_range(0..5)]);
                request.extend(bytes(&mut rng).into_iter().filter(|byte| !matches!(byte, b'\r' | b'\n')));
                request.extend_from_slice(b"\r\n");
            }
            request.extend_from_slice(b"\r\n");
        }
        request.extend(bytes(&mut rng));
        // Bytes that are no HTTP may get no response; an incomplete request is waited for.
        let answer = exchange(&server, &request, Duration::from_millis(30));
        if let Some(status) = status(&answer) {
            survived(&server, status, &String::from_utf8_lossy(&request));
        }
    }
    is_well(&server).await;
}

/// Sends bytes and reads until the end, or until nothing comes for a while.
fn exchange(server: &Server, request: &[u8], timeout: Duration) -> Vec<u8> {
    let mut stream = TcpStream::connect(&server.http).unwrap();
    stream.set_read_timeout(Some(timeout)).unwrap();
    let mut answer = Vec::new();
    // The server may close the connection before it has read everything.
    if stream.write_all(request).is_ok() {
        let _ = stream.read_to_end(&mut answer);
    }
    answer
}

fn status(answer: &[u8]) -> Option<u16> {
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}
