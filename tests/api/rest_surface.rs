//! What all REST responses have in common, and unknown paths and methods.

use std::{
    io::Write as _,
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{Setup, reply, server::ROOT};

const ID: &str = "key_01h455vb4pex5vsknk084sn02q";

#[tokio::test]
async fn an_unknown_path_is_404_for_every_caller() {
    let server = Setup::new().start();
    for path in [
        "/api",
        "/api/v1",
        "/api/v1/keys/",
        "/api/v1/keys/x",
        "/API/V1/KEYS",
        "//api/v1/keys",
        "/api/api-keys/",
        "/api/api-keys/a/b",
        "/api/events/",
        "/api/events/x",
        "/api/events//deliveries",
        "/api/events/x/deliveries/",
        "/api/v2/keys",
        "/healthz/",
        "/favicon.ico",
        "/api/v1/keys%00",
        "/forward-auth/x",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            reply(server.rest(method, path)).await.refused(404, "no_such_path");
        }
        reply(server.rest("GET", path).bearer_auth(ROOT)).await.refused(404, "no_such_path");
    }
}

/// The same holds if its first bytes fit both versions of HTTP and nothing follows.
#[test]
fn a_connection_without_a_request_is_closed() {
    let server = Setup::new().start();
    let start = Instant::now();
    let (rest, grpc) = (&server.http, &server.grpc);
    let said: [(&str, &[u8], u64); 6] = [
        (rest, b"", 9),
        (rest, b"P", 9),
        (rest, b"PRI * HTTP/2.0\r\n\r\nSM", 9),
        (rest, b"GET / HTTP/1.1\r\nhost", 9),
        (grpc, b"", 19),
        (grpc, b"PRI * HTTP/2.0\r\n\r\nSM", 19),
    ];
    let streams = said.map(|(address, said, seconds)| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(said).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        (said, seconds, stream)
    });
    for (said, seconds, mut stream) in streams {
        let ended = std::io::copy(&mut stream, &mut std::io::sink());
        let shown = (String::from_utf8_lossy(said), start.elapsed());
        assert!(ended.is_ok() && (seconds..seconds + 6).contains(&shown.1.as_secs()), "{shown:?}: {ended:?}");
    }
}

#[tokio::test]
async fn an_unknown_method_is_405_with_the_known_ones_in_allow() {
    let server = Setup::new().start();
    let one = format!("/api/api-keys/{ID}");
    let event = "/api/events/evt_01h455vb4pex5vsknk084sn02q";
    let (deliveries, redeliver) = (format!("{event}/deliveries"), format!("{event}/redeliver"));
    let routes: [(&str, &[&str]); 13] = [
        ("/api/v1/keys", &["GET", "POST", "DELETE", "PATCH"]),
        ("/api/v1/verify", &["POST"]),
        ("/api/v1/whoami", &["GET"]),
        ("/.well-known/keyward", &["GET"]),
        ("/api/api-keys", &["GET", "POST"]),
        (&one, &["GET", "DELETE", "PATCH"]),
        ("/api/events", &["GET"]),
        (&deliveries, &["GET"]),
        (&redeliver, &["POST"]),
        ("/healthz", &["GET"]),
        ("/readyz", &["GET"]),
        ("/metrics", &["GET"]),
        ("/openapi.json", &["GET"]),
    ];
    for (path, methods) in routes {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"] {
            let answer = reply(server.rest(method, path)).await;
            if methods.contains(&method) {
                assert_ne!(answer.status, 405, "{method} {path}");
                continue;
            }
            answer.refused(405, "method_not_allowed");
            let mut allowed: Vec<&str> = answer.header("allow").unwrap().split(", ").collect();
            allowed.retain(|method| *method != "HEAD");
            assert_eq!(allowed, methods, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = Setup::new().start();
    for path in ["/healthz", "/api/api-keys", "/nothing"] {
        let get = reply(server.rest("GET", path).bearer_auth(ROOT)).await;
        let head = reply(server.rest("HEAD", path).bearer_auth(ROOT)).await;
        assert_eq!((head.status, head.text.as_str()), (get.status, ""));
        assert_eq!(head.header("content-type"), get.header("content-type"));
    }
}

#[tokio::test]
async fn a_safe_request_id_is_kept_and_any_other_is_replaced() {
    let server = Setup::new().start();
    let long = "a".repeat(128);
    for kept in ["req_1", "A-b_c.d:9", "x", long.as_str()] {
        let answer = reply(server.rest("GET", "/healthz").header("x-request-id", kept)).await;
        assert_eq!(answer.header("x-request-id"), Some(kept));
    }
    let too_long = "a".repeat(129);
    for refused in ["", "a b", "<script>", "a\"b", "a,b", "é", "a\tb", "{x}", too_long.as_str()] {
        let answer = reply(server.rest("GET", "/healthz").header("x-request-id", refused)).await;
        assert!(answer.header("x-request-id").unwrap().starts_with("req_"), "{refused}: {answer:?}");
    }
    // Errors have it, too, and the log has the same one.
    let answer = reply(server.rest("GET", "/api/api-keys").header("x-request-id", "from-the-edge-17")).await;
    answer.refused(401, "missing_credential");
    assert_eq!(answer.header("x-request-id"), Some("from-the-edge-17"));
    server.logged("from-the-edge-17").await;
}

#[tokio::test]
async fn errors_are_json_in_one_shape_whatever_accept_says() {
    let server = Setup::new().start();
    for accept in ["text/html", "application/xml", "*/*"] {
        let answer = reply(server.rest("GET", "/api/api-keys").header("accept", accept)).await;
        assert_eq!(answer.refused(401, "missing_credential"), "No authentication provided");
    }
}

#[tokio::test]
async fn the_probes_need_no_credential() {
    let server = Setup::new().start();
    assert_eq!(reply(server.rest("GET", "/healthz")).await.good(200), json!({"status": "ok"}));
    assert_eq!(reply(server.rest("GET", "/readyz")).await.good(200), json!({"status": "ready"}));
    let metrics = reply(server.rest("GET", "/metrics")).await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    assert_eq!(reply(server.rest("GET", "/openapi.json")).await.good(200)["openapi"], "3.1.0");
}

/// HTTP/2 without TLS by prior knowledge, as service meshes use it.
#[tokio::test]
async fn the_port_speaks_http_2_without_tls() {
    let server = Setup::new().start();
    for (flag, version) in [("--http2-prior-knowledge", "2"), ("--http1.1", "1.1")] {
        let out = Command::new("curl")
            .args(["-s", flag, "-w", " %{http_version} %{http_code}", "--noproxy", "*"])
            .arg(format!("http://{}/api/api-keys", server.http))
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.ends_with(&format!("\"missing_credential\"}} {version} 401")), "{text}");
    }
}
