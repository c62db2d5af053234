//! The forms in which clients write the same thing: numbers, marks before a text, codings, escapes in paths, cookies of
//! others, and chains of proxies; over HTTP/1.1 and HTTP/2.

use std::{io::Write as _, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderValue, Request};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    Reply, Server, Setup,
    oidc::Provider,
    reply,
    server::{ROOT, with},
};

const KEYS: &str = "/api/api-keys";
const BYTE_ORDER_MARK: &str = "\u{feff}";

async fn post(server: &Server, path: &str, body: &str) -> Reply {
    let request = server.rest("POST", path).bearer_auth(ROOT).header("content-type", "application/json");
    reply(request.body(body.to_owned())).await
}

/// Every number of every body, with the body around it.
fn numbers() -> Vec<(&'static str, &'static str, String, [&'static str; 2])> {
    let key = |field: &str, rest: &str| format!("{{\"name\": \"n\"{rest}, \"{field}\": #}}");
    vec![
        (KEYS, "expiresInDays", key("expiresInDays", ""), ["7", "0.7e1"]),
        (
            KEYS,
            "rateLimit.limit",
            "{\"name\": \"n\", \"rateLimit\": {\"limit\": #, \"windowMs\": 60000}}".into(),
            ["100", "1e2"],
        ),
        (
            KEYS,
            "rateLimit.windowMs",
            "{\"name\": \"n\", \"rateLimit\": {\"limit\": 5, \"windowMs\": #}}".into(),
            ["60000", "6e4"],
        ),
        ("/api/v1/keys", "expiresInDays", "{\"expiresInDays\": #}".into(), ["7", "70e-1"]),
        ("/api/v1/keys", "expiresAt", "{\"expiresAt\": #}".into(), ["1900000000000", "1.9e12"]),
        ("/api/v1/verify", "cost", "{\"secret\": \"x\", \"cost\": #}".into(), ["0", "0e3"]),
    ]
}

#[tokio::test]
async fn a_whole_number_may_be_written_in_any_form_in_every_field() {
    let server = Setup::new().start();
    for (path, field, body, [plain, exponent]) in numbers() {
        let send = async |number: &str| post(&server, path, &body.replace('#', number)).await;
        let expected = send(plain).await;
        assert!(expected.status < 300, "{field}: {}", expected.text);
        for number in [format!("{plain}.0"), format!("{plain}.000"), format!("{plain}.0e0"), exponent.to_owned()] {
            let answer = send(&number).await;
            assert_eq!(answer.status, expected.status, "{field}: {number}: {}", answer.text);
            assert_eq!(shown(&answer, field), shown(&expected, field), "{field}: {number}");
        }
        for number in [
            &format!("{plain}.5"),
            "1e-1",
            "-1",
            "-1.0",
            "1e400",
            "1e300",
            "99999999999999999999999",
            "\"7\"",
            "true",
            "[7]",
            "{}",
            "0x7",
            "07",
            "+7",
            "NaN",
            "7.",
        ] {
            let message = send(number).await.refused(400, "invalid_argument");
            let json = ["1e400", "0x7", "07", "+7", "NaN", "7."].contains(&number);
            let named = if json { "body: is not JSON".to_owned() } else { format!("{field}: must be ") };
            assert!(message.starts_with(&named), "{field}: {number}: {message}");
        }
    }
}

/// What an answer says of a number, as far as it does not depend on when it was asked.
fn shown(answer: &Reply, field: &str) -> Value {
    let body: Value = serde_json::from_str(&answer.text).unwrap();
    match field {
        "expiresAt" => body["expires"].clone(),
        "expiresInDays" => (body["expires"].is_number() || body["expiresAt"].is_string()).into(),
        "cost" => body["code"].clone(),
        _ => Value::Null,
    }
}

#[tokio::test]
async fn a_byte_order_mark_before_a_body_is_skipped_once() {
    let server = Setup::new().start();
    let body = json!({"name": "n"}).to_string();
    for (path, good) in [(KEYS, body.as_str()), ("/api/v1/keys", "{}"), ("/api/v1/verify", "{\"secret\": \"x\"}")] {
        let answer = post(&server, path, &format!("{BYTE_ORDER_MARK}{good}")).await;
        assert!(answer.status < 300, "{path}: {}", answer.text);
        for bad in [
            format!("{BYTE_ORDER_MARK}{BYTE_ORDER_MARK}{good}"),
            format!("{good}{BYTE_ORDER_MARK}"),
            format!(" {BYTE_ORDER_MARK}{good}"),
        ] {
            let message = post(&server, path, &bad).await.refused(400, "invalid_argument");
            assert!(message.starts_with("body: is not JSON"), "{path}: {message}");
        }
    }
    // A mark alone is no JSON, and not the same as no body.
    post(&server, "/api/v1/keys", BYTE_ORDER_MARK).await.refused(400, "invalid_argument");
}

#[tokio::test]
async fn a_compressed_body_is_415_and_says_which_codings_are_accepted() {
    let server = Setup::new().start();
    let body = json!({"name": "n"}).to_string();
    for coding in
        ["gzip", "br", "deflate", "zstd", "x-gzip", "GZIP", "identity, gzip", "gzip, identity", "nonsense", "\u{f6}"]
    {
        for path in [KEYS, "/api/v1/keys", "/api/v1/verify"] {
            let request = server.rest("POST", path).bearer_auth(ROOT).header("content-type", "application/json");
            let coding = HeaderValue::from_bytes(coding.as_bytes()).unwrap();
            let answer = reply(request.header("content-encoding", coding).body(body.clone())).await;
            assert_eq!(answer.headers["accept-encoding"], "identity");
            assert_eq!(answer.refused(415, "invalid_argument"), "body: must not be compressed", "{path}");
        }
    }
    for coding in ["identity", "Identity", ""] {
        let request = server.rest("POST", KEYS).bearer_auth(ROOT).header("content-type", "application/json");
        reply(request.header("content-encoding", coding).body(body.clone())).await.good(201);
    }
    // Without a body there is nothing to decode.
    let empty = server.rest("POST", "/api/v1/keys").bearer_auth(ROOT).header("content-encoding", "gzip");
    reply(empty).await.good(201);
}

#[tokio::test]
async fn other_cookies_may_hold_any_bytes() {
    let provider = Provider::start();
    let table = provider.table("norrix", &["norrix"], "cookie = \"__Host-sess\"");
    let server = Setup::new().ready("norrix").and(&table).start();
    let token = provider.token("norrix", "olga", &json!({"acme": "owner"})).await;
    for line in [
        format!("name=Jörg; __Host-sess={token}").into_bytes(),
        [b"name=J\xf6rg; __Host-sess=", token.as_bytes()].concat(),
        [b"__Host-sess=", token.as_bytes(), b"; name=J\xf6rg"].concat(),
        [b"\xff\xfe; =; ;; a==b; __Host-sess=", token.as_bytes(), b"; \"quoted; x\""].concat(),
        [b"json={\"a\":1}; __Host-sess=", token.as_bytes()].concat(),
        [b"a=b;__Host-sess=", token.as_bytes()].concat(),
    ] {
        let cookie = HeaderValue::from_bytes(&line).unwrap();
        reply(server.rest("GET", KEYS).header("cookie", cookie.clone())).await.good(200);
        assert_eq!(over_http_2(&server, "GET", KEYS, &[("cookie", cookie)]).await, 200);
    }
    // A browser sends each cookie of an HTTP/2 request in a line of its own.
    let lines = [b"name=J\xf6rg".to_vec(), format!("__Host-sess={token}").into_bytes()];
    let lines = lines.map(|line| ("cookie", HeaderValue::from_bytes(&line).unwrap()));
    assert_eq!(over_http_2(&server, "GET", KEYS, &lines).await, 200);
    // Bytes that are no text within the session's own cookie are not a token.
    let bad = HeaderValue::from_bytes(&[b"__Host-sess=\xff", token.as_bytes()].concat()).unwrap();
    reply(server.rest("GET", KEYS).header("cookie", bad)).await.refused(401, "malformed");
}

/// Sends a request without a body over HTTP/2. Returns the status.
async fn over_http_2(server: &Server, method: &str, path: &str, headers: &[(&'static str, HeaderValue)]) -> u16 {
    let stream = TcpStream::connect(&server.http).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let running = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let mut request = Request::builder().method(method).uri(format!("http://{}{path}", server.http));
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let (response, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
    let response = response.await.unwrap();
    let status = response.status().as_u16();
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let _: Bytes = data.unwrap();
    }
    running.abort();
    status
}

/// Sends a request without a body over HTTP/1.1, byte by byte as given.
async fn over_http_1(server: &Server, path: &str, headers: &[(&'static str, HeaderValue)]) {
    let mut request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n").into_bytes();
    for (name, value) in headers {
        request.extend([name.as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    request.extend(b"\r\n");
    let mut stream = TcpStream::connect(&server.http).await.unwrap();
    stream.write_all(&request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 401"), "{}", String::from_utf8_lossy(&answer));
}

/// What cannot be read ends what can be believed, in one line and in several, over both versions of HTTP.
#[tokio::test]
async fn the_client_is_the_last_hop_that_a_trusted_proxy_can_have_written() {
    let start = || Setup::new().and("[http]\ntrusted_proxies = [\"127.0.0.1/32\", \"10.0.0.0/8\"]").start();
    let mut server = start();
    let peer = "127.0.0.1";
    let cases: &[(&[&[u8]], &str)] = &[
        (&[], peer),
        (&[b"203.0.113.7"], "203.0.113.7"),
        (&[b"6.6.6.6, 203.0.113.7"], "203.0.113.7"),
        (&[b"6.6.6.6", b"203.0.113.7"], "203.0.113.7"),
        (&[b"6.6.6.6", b"203.0.113.7, 10.1.1.1", b"10.2.2.2"], "203.0.113.7"),
        // A byte above ASCII in the line that the proxy added to.
        (&[b"6.6.6.6", b"\xff, 203.0.113.7"], "203.0.113.7"),
        (&[b"6.6.6.6, \xff, 203.0.113.7"], "203.0.113.7"),
        (&[b"6.6.6.6", b"\xff, 10.1.1.1"], "10.1.1.1"),
        (&[b"6.6.6.6", b"\xff"], peer),
        (&[b"6.6.6.6, \xff"], peer),
        (&[b"6.6.6.6", b"203.0.113.\xb2"], peer),
        (&[b"6.6.6.6", b"\xc3\xa4, 10.1.1.1"], "10.1.1.1"),
        // Anything else that is no address.
        (&[b"6.6.6.6", b"unknown"], peer),
        (&[b"6.6.6.6", b""], peer),
        (&[b"6.6.6.6", b", 10.1.1.1"], "10.1.1.1"),
        (&[b"6.6.6.6", b"_hidden, 10.1.1.1"], "10.1.1.1"),
        (&[b"6.6.6.6", b"for=203.0.113.7"], peer),
        (&[b"6.6.6.6", b"203.0.113.7;6.6.6.6"], peer),
        (&[b"6.6.6.6", b"2001:db8::7"], "2001:db8::7"),
        (&[b"6.6.6.6", b"[2001:db8::7]:443, 10.1.1.1:80"], "2001:db8::7"),
    ];
    for (number, (lines, expected)) in cases.iter().enumerate() {
        if number % 2 == 1 {
            // The log sums up the refusals of one client after a few lines.
            server = start();
        }
        let mut headers: Vec<_> =
            lines.iter().map(|line| ("x-forwarded-for", HeaderValue::from_bytes(line).unwrap())).collect();
        // Others of the family say nothing.
        for name in ["forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip"] {
            headers.push((name, HeaderValue::from_static("6.6.6.6")));
        }
        for version in [1, 2] {
            let id = format!("case-{number}-{version}");
            let mut headers = headers.clone();
            headers.push(("x-request-id", HeaderValue::try_from(&id).unwrap()));
            if version == 1 {
                over_http_1(&server, KEYS, &headers).await;
            } else {
                assert_eq!(over_http_2(&server, "GET", KEYS, &headers).await, 401);
            }
            let request = format!("request=\"{id}\"");
            server.logged(&request).await;
            let log = server.log();
            let line = log.lines().find(|line| line.contains(&request)).unwrap();
            assert!(line.contains(&format!("client=\"{expected}\"")), "HTTP/{version} {lines:?}: {line}");
        }
    }
}

#[tokio::test]
async fn ids_in_paths_may_be_percent_encoded_on_every_route() {
    let server = Setup::new().and("").start();
    let spellings: [fn(&str) -> String; 3] = [
        |id| id.replace('_', "%5f"),
        |id| id.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat(),
        |id| id.replacen('e', "%65", 1),
    ];
    let mut last = String::new();
    for spelled in spellings {
        let made = server.create(json!({"name": "n", "webhook": "https://a.invalid/"})).await;
        let id = made["id"].as_str().unwrap();
        let events = reply(server.rest("GET", "/api/events").bearer_auth(ROOT)).await.good(200);
        let event = spelled(events["events"][0]["id"].as_str().unwrap());
        let key = spelled(id);
        id.clone_into(&mut last);
        let call = async |method: &str, path: String, body: Value| {
            let mut request = server.rest(method, &path).bearer_auth(ROOT);
            if !body.is_null() {
                request = request.json(&body);
            }
            reply(request).await
        };
        assert_eq!(call("GET", format!("{KEYS}/{key}"), Value::Null).await.good(200)["id"], id);
        let body = json!({"webhook": "https://b.invalid/"});
        assert_eq!(call("PATCH", format!("{KEYS}/{key}"), body).await.good(200)["id"], id);
        call("GET", format!("/api/events/{event}/deliveries"), Value::Null).await.good(200);
        call("POST", format!("/api/events/{event}/redeliver"), Value::Null).await;
        assert_eq!(call("DELETE", format!("{KEYS}/{key}"), Value::Null).await.good(200)["status"], "revoked");
    }
    let id = last.as_str();
    for bad in [
        "key_%",
        "key_%zz",
        "%ff%fe",
        &format!("{id}%00"),
        &format!("{id}%20"),
        &format!("{id}%2f"),
        &id.replace('_', "%255F"),
    ] {
        let answer = reply(server.rest("GET", &format!("{KEYS}/{bad}")).bearer_auth(ROOT)).await;
        assert_eq!(answer.status, 404, "{bad}: {}", answer.text);
    }
}

#[tokio::test]
async fn calls_of_paths_that_do_not_exist_are_logged_and_counted_without_their_path() {
    let server = Setup::new().start();
    for (method, path, status, code) in [
        ("GET", "/nowhere/SECRET-LOOKING-PATH", 404, "no_such_path"),
        ("POST", "/api/api-keys/x/y/z", 404, "no_such_path"),
        ("GET", "/api//api-keys", 404, "no_such_path"),
        ("PUT", "/api/api-keys", 405, "method_not_allowed"),
        ("DELETE", "/healthz", 405, "method_not_allowed"),
    ] {
        reply(server.rest(method, path)).await.refused(status, code);
    }
    for (outcome, count) in [("NO_SUCH_PATH", 3), ("METHOD_NOT_ALLOWED", 2)] {
        server.logged(&format!("call=\"unknown\" transport=\"rest\" outcome=\"{outcome}\"")).await;
        let metrics = reply(server.rest("GET", "/metrics")).await.text;
        let line = format!("keyward_calls_total{{call=\"unknown\",outcome=\"{outcome}\"}} {count}");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    assert!(!server.log().contains("SECRET-LOOKING-PATH"));
    // Probes are neither logged nor counted.
    reply(server.rest("GET", "/healthz")).await.good(200);
    assert!(!reply(server.rest("GET", "/metrics")).await.text.contains("call=\"healthz\""));
}

/// A credential is good or bad on both transports alike, whatever its characters.
#[tokio::test]
async fn a_credential_is_refused_alike_over_rest_and_grpc() {
    let server = Setup::new().start();
    let made = server.create(json!({"name": "n"})).await;
    let key = made["key"].as_str().unwrap();
    let mut client = server.client().await;
    for credential in [
        format!("{ROOT}\u{f6}").into_bytes(),
        [ROOT.as_bytes(), b"\xff"].concat(),
        format!("{key}\u{f6}").into_bytes(),
        [b"\xff", key.as_bytes()].concat(),
        format!("{ROOT}x").into_bytes(),
    ] {
        let value = HeaderValue::from_bytes(&[b"Bearer ", &credential[..]].concat()).unwrap();
        let request = server.rest("GET", KEYS).header("authorization", value.clone());
        reply(request).await.refused(401, "malformed");
        let mut request = with(ROOT, keyward::proto::ListRequest::default());
        let mut headers = request.metadata().clone().into_headers();
        headers.insert("authorization", value);
        *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
        let refused = client.list(request).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (tonic::Code::Unauthenticated, "Invalid or expired API key"));
    }
}

/// Files that an editor put a byte order mark before.
#[tokio::test]
async fn a_byte_order_mark_before_a_config_file_or_a_certificate_is_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let ca = crate::support::tls::Authority::new(folder.path(), "ca");
    let identity = ca.server("server");
    for path in [&identity.cert, &identity.key, &ca.cert] {
        let text = std::fs::read(path).unwrap();
        let mut file = std::fs::File::create(path).unwrap();
        file.write_all(BYTE_ORDER_MARK.as_bytes()).and_then(|()| file.write_all(&text)).unwrap();
    }
    let config = format!(
        "{BYTE_ORDER_MARK}[tls]\ncert = {:?}\nkey = {:?}\nclient_ca = {:?}\n",
        identity.cert, identity.key, ca.cert
    );
    let server = Setup::new().config(&config).start();
    let _: SocketAddr = server.http.parse().unwrap();
}
