//! Verify at the level of HTTP/2 frames: the fast path and tonic give the same responses.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request};
use keyward::proto::{Code, VerifyRequest, VerifyResponse};
use prost::Message as _;
use tokio::{net::TcpStream, time::sleep};

use crate::support::{
    Server, Setup,
    grpc::{check, key},
    server::ROOT,
};

const VERIFY: &str = "/keyward.v1.KeyService/Verify";

async fn connect(server: &Server) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(&server.grpc).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

fn request(server: &Server, path: &str) -> Request<()> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}{path}", server.grpc))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {ROOT}"))
        .body(())
        .unwrap()
}

fn framed(message: &VerifyRequest) -> Vec<u8> {
    let body = message.encode_to_vec();
    [&[0][..], &u32::try_from(body.len()).unwrap().to_be_bytes(), &body].concat()
}

/// Sends a request whose body is in these pieces, and returns the gRPC status and the verdict, if there is one.
async fn exchange(
    sender: &mut SendRequest<Bytes>,
    request: Request<()>,
    pieces: &[&[u8]],
    pause: Duration,
    end_apart: bool,
) -> (String, Option<Code>) {
    let (answer, mut body) = sender.send_request(request, false).unwrap();
    for (number, piece) in pieces.iter().enumerate() {
        sleep(pause).await;
        let last = number + 1 == pieces.len() && !end_apart;
        // The server may refuse the request before it has all of it.
        let _ = body.send_data(Bytes::copy_from_slice(piece), last);
    }
    if end_apart {
        sleep(pause).await;
        let _ = body.send_data(Bytes::new(), true);
    }
    let (head, mut body) = answer.await.unwrap().into_parts();
    let mut whole = Vec::new();
    while let Some(data) = body.data().await {
        whole.extend(data.unwrap());
    }
    let trailers = body.trailers().await.unwrap();
    let status = |headers: &HeaderMap| headers.get("grpc-status").map(|value| value.to_str().unwrap().to_owned());
    let status = trailers.as_ref().and_then(status).or_else(|| status(&head.headers)).unwrap_or_default();
    let verdict = whole.get(5..).map(|body| VerifyResponse::decode(body).unwrap().code());
    (status, verdict)
}

#[tokio::test]
async fn a_verify_is_answered_however_it_is_split_into_frames() {
    let server = Setup::new().start();
    let made = key(&mut server.client().await, "", "acme", &[]).await;
    let frame = framed(&check(&made.secret));
    let (start, end) = frame.split_at(7);
    let mut sender = connect(&server).await;
    // The first call fills the cache; later ones may be answered from it.
    for _ in 0..2 {
        for pause in [Duration::ZERO, Duration::from_millis(20)] {
            for pieces in [vec![&frame[..]], vec![start, end], vec![start, b"", end]] {
                for end_apart in [false, true] {
                    let request = request(&server, VERIFY);
                    let answered = exchange(&mut sender, request, &pieces, pause, end_apart).await;
                    assert_eq!(answered, ("0".into(), Some(Code::Valid)), "{pause:?} {} {end_apart}", pieces.len());
                }
            }
        }
    }
}

#[tokio::test]
async fn an_invalid_verify_is_refused_and_the_connection_stays_usable() {
    let server = Setup::new().start();
    let made = key(&mut server.client().await, "", "acme", &[]).await;
    let frame = framed(&check(&made.secret));
    let compressed = [&[1], &frame[1..]].concat();
    let longer = [&frame[..], b"x"].concat();
    let garbage = [0, 0, 0, 0, 2, 0xff, 0xff];
    let mut sender = connect(&server).await;
    let without = |name: &str| {
        let mut request = request(&server, VERIFY);
        request.headers_mut().remove(name);
        request
    };
    let mut encrypted = request(&server, VERIFY);
    encrypted.headers_mut().insert("grpc-encoding", "gzip".parse().unwrap());
    let mut twice = request(&server, VERIFY);
    twice.headers_mut().append("authorization", "Bearer other".parse().unwrap());
    for (case, request, body, status) in [
        ("compressed, and nothing said of it", request(&server, VERIFY), &compressed[..], "13"),
        ("an encoding that is not taken", encrypted, &compressed, "12"),
        ("no message that can be read", request(&server, VERIFY), &garbage, "3"),
        ("half a message", request(&server, VERIFY), &frame[..9], "13"),
        ("nothing", request(&server, VERIFY), b"", "13"),
        ("more than a message", request(&server, VERIFY), &longer, "0"),
        ("no credential", without("authorization"), &frame, "16"),
        ("two credentials", twice, &frame, "3"),
        ("no such call", request(&server, "/keyward.v1.KeyService/Guess"), &frame, "12"),
    ] {
        let (found, _) = exchange(&mut sender, request, &[body], Duration::ZERO, false).await;
        if case == "more than a message" {
            // The rest after the message may be ignored or refused, but is never a second check.
            assert!(["0", "13"].contains(&found.as_str()), "{case}: {found}");
        } else {
            assert_eq!(found, status, "{case}");
        }
        let answered = exchange(&mut sender, self::request(&server, VERIFY), &[&frame], Duration::ZERO, false).await;
        assert_eq!(answered, ("0".into(), Some(Code::Valid)), "after {case}");
    }
}

/// A form of a web page can send any body, but not this content type.
#[tokio::test]
async fn a_request_without_a_grpc_content_type_is_refused_unread() {
    let server = Setup::new().start();
    let mut sender = connect(&server).await;
    for kind in [None, Some("text/plain"), Some("application/json"), Some("application/grpcx"), Some("")] {
        for path in [VERIFY, "/keyward.v1.KeyService/List", "/grpc.health.v1.Health/Check"] {
            let mut request = request(&server, path);
            request.headers_mut().remove("content-type");
            if let Some(kind) = kind {
                request.headers_mut().insert("content-type", kind.parse().unwrap());
            }
            let (answer, _body) = sender.send_request(request, false).unwrap();
            assert_eq!(answer.await.unwrap().status(), 415, "{kind:?} {path}");
        }
    }
    for kind in ["application/grpc+proto", "application/grpc;charset=utf-8"] {
        let mut request = request(&server, VERIFY);
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        let frame = framed(&check("x"));
        let answered = exchange(&mut sender, request, &[&frame], Duration::ZERO, false).await;
        assert_eq!(answered, ("0".into(), Some(Code::Malformed)), "{kind}");
    }
}

#[tokio::test]
async fn many_concurrent_calls_on_one_connection_are_all_answered() {
    let server = Setup::new().start();
    let client = server.client().await;
    let mut known = Vec::new();
    for _ in 0..20 {
        known.push(key(&mut client.clone(), "", "acme", &[]).await.secret);
    }
    // Some are answered from memory, some after a look-up, some without one.
    let calls = (0..400).map(|number| {
        let mut client = client.clone();
        let (secret, expected) = match number % 4 {
            0 => (format!("ak_{number:032}"), Code::Malformed),
            _ => (known[number % known.len()].clone(), Code::Valid),
        };
        tokio::spawn(async move {
            assert_eq!(crate::support::grpc::code(&mut client, &secret).await, expected);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_resets_many_streams_keeps_its_connection() {
    let server = Setup::new().start();
    let made = key(&mut server.client().await, "", "acme", &[]).await;
    let frame = framed(&check(&made.secret));
    let mut sender = connect(&server).await;
    for _ in 0..200 {
        let (answer, mut body) = sender.send_request(request(&server, VERIFY), false).unwrap();
        body.send_reset(h2::Reason::CANCEL);
        drop(answer);
    }
    let answered = exchange(&mut sender, request(&server, VERIFY), &[&frame], Duration::ZERO, false).await;
    assert_eq!(answered, ("0".into(), Some(Code::Valid)));
}
