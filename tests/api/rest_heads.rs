//! Requests whose heads a proxy in front may read in another way, and request ids that hold a credential.

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Server, Setup, grpc::key, reply, server::ROOT};

/// The response to a request as it is written, with these lines after the first one.
async fn raw(server: &Server, lines: &str) -> String {
    let mut stream = TcpStream::connect(&server.http).await.unwrap();
    let request = format!("GET /healthz HTTP/1.1\r\n{lines}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    String::from_utf8(response).unwrap()
}

#[tokio::test]
async fn a_head_that_a_proxy_may_read_otherwise_is_400() {
    let server = Setup::new().start();
    for (lines, field) in [
        ("", "host"),
        ("host: a\r\nhost: a\r\n", "host"),
        ("host: a\r\nHost: b\r\n", "host"),
        ("host: a\r\nte: gzip\r\n", "te"),
        ("host: a\r\nte: trailers, deflate\r\n", "te"),
        ("host: a\r\nte: trailers\r\nte: gzip\r\n", "te"),
    ] {
        let response = raw(&server, lines).await;
        assert!(response.starts_with("HTTP/1.1 400 "), "{lines:?}: {response}");
        assert!(response.contains(&format!("\"message\":\"{field}: ")), "{lines:?}: {response}");
    }
    // hyper itself refuses other codings, with and without a length.
    for lines in [
        "host: a\r\ntransfer-encoding: gzip\r\n",
        "host: a\r\ntransfer-encoding: gzip, chunked\r\n",
        "host: a\r\ntransfer-encoding: identity\r\n",
        "host: a\r\ntransfer-encoding: chunked, gzip\r\ncontent-length: 0\r\n",
    ] {
        let response = raw(&server, lines).await;
        assert!(response.starts_with("HTTP/1.1 400 "), "{lines:?}: {response}");
    }
    for lines in ["host: a\r\n", "host: a\r\nte: trailers\r\n"] {
        let response = raw(&server, lines).await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{lines:?}: {response}");
    }
}

/// A secret in a field that is logged and repeated was put there by mistake.
#[tokio::test]
async fn a_request_id_that_holds_a_credential_is_neither_repeated_nor_logged() {
    let server = Setup::new().start();
    let made = key(&mut server.client().await, "", "", &[]).await;
    let service = server.create(json!({"keyspace": "keyward", "name": "gateway"})).await;
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJvbGdhIn0.c2lnbmF0dXJl";
    let mistyped = format!("{}x", &made.secret[..made.secret.len() - 2]);
    let inside = format!("call-1:{}", made.secret);
    for held in [made.secret.as_str(), service["key"].as_str().unwrap(), ROOT, token, &mistyped, &inside] {
        for path in ["/healthz", "/api/api-keys"] {
            let answer = reply(server.rest("GET", path).header("x-request-id", held)).await;
            assert!(answer.header("x-request-id").unwrap().starts_with("req_"), "{answer:?}");
        }
    }
    // The line of a later call is written after theirs.
    reply(server.rest("GET", "/api/api-keys").bearer_auth(ROOT).header("x-request-id", "the-last-one")).await;
    server.logged("the-last-one").await;
    let log = server.log();
    for secret in [&made.secret[4..24], &service["key"].as_str().unwrap()[3..23], ROOT, token] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// Otherwise a small request would make a large response, many times over.
#[tokio::test]
async fn unknown_names_make_no_answer_larger_than_the_question() {
    let server = Setup::new().start();
    let names: serde_json::Map<_, _> = (0..2_000).map(|n| (format!("n{n}"), json!(0))).collect();
    let body = serde_json::Value::Object(names).to_string();
    let asked = server.rest("POST", "/api/api-keys").bearer_auth(ROOT).header("content-type", "application/json");
    let answer = reply(asked.body(body.clone())).await;
    answer.refused(400, "invalid_argument");
    assert!(answer.text.len() < body.len() / 10, "{} bytes for {}", answer.text.len(), body.len());
    let query = (0..500).map(|n| format!("n{n}=")).collect::<Vec<_>>().join("&");
    let answer = reply(server.rest("GET", &format!("/api/api-keys?{query}")).bearer_auth(ROOT)).await;
    answer.refused(400, "invalid_argument");
    assert!(answer.text.len() < query.len() / 2, "{} bytes for {}", answer.text.len(), query.len());
    let long = "x".repeat(100_000);
    let answer = server.rest("POST", "/api/api-keys").bearer_auth(ROOT).json(&json!({ long: 1 }));
    assert!(reply(answer).await.text.len() < 1_000);
}

#[tokio::test]
async fn json_logs_escape_characters_that_turn_or_break_a_line() {
    let folder = tempfile::tempdir().unwrap();
    // The name of the file is in a line of the log.
    let name = "k\u{202e}\u{2028}y.db";
    let setup =
        Setup::new().folder(folder.path()).env("KEYWARD_LOG_FORMAT", "json").database(&format!("sqlite://{name}"));
    std::fs::write(folder.path().join(name), b"").unwrap();
    std::fs::set_permissions(folder.path().join(name), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let server = setup.start();
    server.logged("k\\u202e\\u2028y.db").await;
    assert!(!server.log().contains(['\u{202e}', '\u{2028}']), "{}", server.log());
}
