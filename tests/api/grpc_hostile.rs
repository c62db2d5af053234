//! Clients of the gRPC port without a credential, or with a bad one: what they can take is bounded, and callers go on.

use std::{
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use keyward::proto::{Code, VerifyRequest, VerifyStreamRequest};
use prost::Message as _;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    hostile::{
        FLOOD, Flood, Hold, LONG, Polite, assert_bounded, flood_bytes, frame, framed, header_block, hold, measurable,
        mute_issuer, pour, preface, trailer,
    },
    support::{
        Server, Setup,
        grpc::{check, code, key},
        server::{ROOT, with},
    },
};

const CREATE: &str = "/keyward.v1.KeyService/Create";
pub const LIST: &str = "/keyward.v1.KeyService/List";
const VERIFY: &str = "/keyward.v1.KeyService/Verify";
const VERIFY_STREAM: &str = "/keyward.v1.KeyService/VerifyStream";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

async fn assert_flood_bounded(name: &str, flood: Flood) {
    let server = measurable().start();
    let bytes = Arc::new(flood_bytes(&flood));
    assert_bounded(name, &server, || pour(server.grpc.clone(), bytes.clone(), flood.reads)).await;
}

#[tokio::test]
async fn promised_messages_of_strangers_take_no_memory() {
    assert_flood_bounded("promised messages", FLOOD).await;
}

#[tokio::test]
async fn strangers_that_read_no_response_take_bounded_memory() {
    assert_flood_bounded("responses are not read", Flood { reads: false, ..FLOOD }).await;
}

#[tokio::test]
async fn calls_that_anyone_may_make_take_bounded_memory() {
    assert_flood_bounded("reflection", Flood { path: REFLECTION, ..FLOOD }).await;
    assert_flood_bounded("unknown methods", Flood { path: "/keyward.v1.KeyService/Nothing", ..FLOOD }).await;
}

#[tokio::test]
async fn large_headers_of_strangers_take_bounded_memory() {
    assert_flood_bounded("headers of 12 kB", Flood { headers: 12_000, streams: 100, ..FLOOD }).await;
}

#[tokio::test]
async fn messages_without_their_last_byte_take_bounded_memory() {
    let (_listener, issuer, token) = mute_issuer();
    let credential = Some(token);
    for (name, path, credential, message) in [
        ("a Create of an unknown session", CREATE, credential.clone(), 1 << 20),
        ("a VerifyStream of an unknown session", VERIFY_STREAM, credential, 1 << 20),
        ("health", HEALTH, None, 16_000),
        ("reflection", REFLECTION, None, 16_000),
    ] {
        let server = measurable().ready("norrix").and(&issuer).and("[server]\nbody_timeout = \"1m\"\n").start();
        let sent_bytes = Arc::new(AtomicUsize::new(0));
        let kind = Hold { rest: false, path, credential, message, streams: 200 };
        assert_bounded(name, &server, || hold(server.grpc.clone(), kind.clone(), Arc::clone(&sent_bytes))).await;
        assert!(sent_bytes.load(Ordering::Relaxed) > 100_000, "{name}: the attack sends nothing");
    }
}

/// Begins calls whose message does not come, and returns the statuses of those that are refused at once.
async fn refused_at_once(client: &mut Polite, count: usize) -> Vec<String> {
    let mut started = Vec::new();
    for _ in 0..count {
        client.sender = client.sender.clone().ready().await.unwrap();
        started.push(client.begin(REFLECTION, None).unwrap());
    }
    // Calls are looked at in their order: once this one is answered, the refused ones are, too.
    assert_eq!(client.call(LIST, None, framed(&[])).await, "16");
    let mut statuses = Vec::new();
    for (mut answer, stream) in started {
        match futures::poll!(&mut answer) {
            Poll::Ready(head) => statuses.push(head.unwrap().headers()["grpc-status"].to_str().unwrap().to_owned()),
            Poll::Pending => std::mem::forget((answer, stream)),
        }
    }
    statuses
}

#[tokio::test]
async fn past_the_memory_for_strangers_their_calls_are_refused_and_authenticated_ones_go_on() {
    let text = "[server]\nanonymous_memory_per_address = \"4MiB\"\nbody_timeout = \"1m\"\n";
    let server = Setup::new().config(text).start();
    let mut clients = Vec::new();
    let mut refused = 0;
    for _ in 0..20 {
        let mut client = Polite::connect(&server.grpc).await;
        refused += refused_at_once(&mut client, 30).await.iter().filter(|status| *status == "8").count();
        clients.push(client);
    }
    // Each takes about 18 KiB.
    assert!((300..450).contains(&refused), "{refused}");
    key(&mut server.client().await, "", "acme", &[]).await;
}

#[tokio::test]
async fn a_stranger_makes_few_calls_at_once_on_one_connection() {
    let server = Setup::new().config("[server]\nbody_timeout = \"1m\"\n").start();
    let mut client = Polite::connect(&server.grpc).await;
    assert_eq!(refused_at_once(&mut client, 40).await, vec!["8"; 8]);
    // A caller with a credential goes on, also on this connection, and opens it to more calls.
    assert_eq!(client.call(LIST, Some(ROOT), framed(&[])).await, "0");
    assert_eq!(refused_at_once(&mut client, 40).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_burst_of_a_caller_that_is_not_in_memory_is_answered() {
    let mut server = Setup::new().start();
    let service = server.create(json!({"keyspace": "keyward", "name": "service"})).await;
    let service = service["key"].as_str().unwrap().to_owned();
    let made = key(&mut server.client().await, "", "acme", &[]).await;
    server.stop();
    let folder = server.folder().to_owned();
    let server = Setup::new().folder(&folder).start();
    let client = server.client().await;
    let calls = (0..300).map(|_| {
        let (mut client, service, check) = (client.clone(), service.clone(), check(&made.secret));
        tokio::spawn(async move { client.verify(with(&service, check)).await.unwrap().into_inner().code() })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(timeout(LONG, call).await.unwrap().unwrap(), Code::Valid);
    }
}

#[tokio::test]
async fn a_message_that_does_not_arrive_is_refused_at_its_deadline() {
    let server = Setup::new().config("[server]\nbody_timeout = \"1s\"\n").start();
    let made = key(&mut server.client().await, "", "acme", &[]).await;
    let mut client = Polite::connect(&server.grpc).await;
    for (path, credential, sent) in [
        (CREATE, Some(ROOT), &[0, 0, 0, 0, 9, 1][..]),
        (VERIFY, Some(ROOT), &[0, 0, 0, 0, 9, 1]),
        (VERIFY_STREAM, Some(ROOT), &[]),
        (VERIFY_STREAM, Some(ROOT), &[0, 0, 0]),
        (HEALTH, None, &[0, 0, 0, 0, 9, 1]),
        (REFLECTION, None, &[]),
    ] {
        let start = Instant::now();
        client.sender = client.sender.clone().ready().await.unwrap();
        let (answer, mut stream) = client.begin(path, credential).unwrap();
        stream.send_data(Bytes::copy_from_slice(sent), false).unwrap();
        let (head, body) = timeout(LONG, answer).await.unwrap().unwrap().into_parts();
        let status = match head.headers.get("grpc-status") {
            Some(status) => status.to_str().unwrap().to_owned(),
            None => timeout(LONG, trailer(body)).await.unwrap(),
        };
        assert_eq!(status, "4", "{path}");
        assert!(start.elapsed() >= Duration::from_millis(900), "{path}: {:?}", start.elapsed());
    }
    // A stream whose first message has come may be silent afterwards.
    let (sender, messages) = tokio::sync::mpsc::channel(1);
    let message = |id| VerifyStreamRequest {
        id,
        request: Some(VerifyRequest { secret: made.secret.clone(), ..VerifyRequest::default() }),
    };
    sender.send(message(1)).await.unwrap();
    let mut client = server.client().await;
    let messages = futures::stream::unfold(messages, async |mut messages| Some((messages.recv().await?, messages)));
    let mut answers = client.verify_stream(with(ROOT, messages)).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().id, 1);
    sleep(Duration::from_secs(2)).await;
    sender.send(message(2)).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().id, 2);
}

#[tokio::test]
async fn a_stranger_without_calls_is_disconnected_and_an_authenticated_client_is_not() {
    let server = Setup::new().config("[server]\nkeepalive_interval = \"1s\"\n").start();
    let strangers = [Polite::connect(&server.grpc).await, Polite::connect(&server.grpc).await];
    let mut known = Polite::connect(&server.grpc).await;
    assert_eq!(known.call(LIST, Some(ROOT), framed(&[])).await, "0");
    for mut stranger in strangers {
        if let Ok(ready) = stranger.sender.clone().ready().await {
            stranger.sender = ready;
        }
        timeout(LONG, stranger.connection).await.unwrap().unwrap().unwrap();
    }
    sleep(Duration::from_secs(3)).await;
    assert_eq!(known.call(LIST, Some(ROOT), framed(&[])).await, "0");
}

/// Whether the server closes a connection on which these bytes are sent and nothing is answered.
fn closes(server: &Server, bytes: &[u8]) -> JoinHandle<bool> {
    let mut stream = std::net::TcpStream::connect(&server.grpc).unwrap();
    std::io::Write::write_all(&mut stream, bytes).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    tokio::task::spawn_blocking(move || {
        let mut buffer = [0; 4_096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    })
}

#[tokio::test]
async fn mute_connections_end() {
    let server = Setup::new().config("[server]\nkeepalive_interval = \"1s\"\nwrite_timeout = \"1s\"\n").start();
    let mut half_headers = preface();
    frame(&mut half_headers, 1, 0, 1, &header_block(&FLOOD)[..20]);
    let mut no_window = preface();
    frame(&mut no_window, 4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    frame(&mut no_window, 1, 4, 1, &header_block(&Flood { path: HEALTH, ..FLOOD }));
    frame(&mut no_window, 0, 1, 1, &framed(&[]));
    let ends: Vec<_> = [
        ("nothing", Vec::new()),
        ("half of the preface", preface()[..10].to_vec()),
        ("the preface alone", preface()),
        ("half of a request's headers", half_headers),
        ("no window for the response", no_window),
    ]
    .into_iter()
    .map(|(kind, bytes)| (kind, closes(&server, &bytes)))
    .collect();
    for (kind, closed) in ends {
        assert!(closed.await.unwrap(), "{kind}");
    }
}

#[tokio::test]
async fn a_client_that_reads_no_response_is_disconnected() {
    let server = Setup::new().config("[server]\nwrite_timeout = \"1s\"\n").start();
    // A small buffer, which is full soon.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(server.grpc.parse().unwrap()).await.unwrap();
    stream.write_all(&preface()).await.unwrap();
    let block = header_block(&FLOOD);
    let start = Instant::now();
    // The requests fill the buffers of both sides, until the server gives up.
    for number in 0.. {
        let mut bytes = Vec::new();
        for stream in 0..100 {
            frame(&mut bytes, 1, 5, 2 * (100 * number + stream) + 1, &block);
        }
        match timeout(LONG, stream.write_all(&bytes)).await.expect("the server neither reads nor closes") {
            Ok(()) => assert!(start.elapsed() < 3 * LONG, "the server goes on"),
            Err(_) => break,
        }
    }
}

#[tokio::test]
async fn clients_that_hold_every_connection_keep_no_caller_out() {
    let server = Setup::new().config("[server]\nmax_connections = 16\n").start();
    let mut known = server.client().await;
    let made = key(&mut known, "", "acme", &[]).await;
    let mut kept_open = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(&server.grpc).await.unwrap();
        let _ = stream.write_all(&preface()).await;
        kept_open.push(stream);
    }
    assert_eq!(code(&mut known, &made.secret).await, Code::Valid);
    assert_eq!(code(&mut server.client().await, &made.secret).await, Code::Valid);
    let ended = async { while kept_open[0].read(&mut [0; 4_096]).await.is_ok_and(|read| read > 0) {} };
    timeout(LONG, ended).await.unwrap();
}

#[tokio::test]
async fn a_connection_is_closed_after_twenty_refused_credentials_in_a_row() {
    let server = Setup::new().start();
    let mut client = Polite::connect(&server.grpc).await;
    let guess = async |client: &mut Polite, count: usize| {
        for number in 0..count {
            let path = [LIST, VERIFY][number % 2];
            let status = client.call(path, Some("kw_forged"), framed(&check("x").encode_to_vec())).await;
            assert_eq!(status, "16", "{number}");
        }
    };
    guess(&mut client, 19).await;
    // A call without a credential is no attempt.
    assert_eq!(client.call(LIST, None, framed(&[])).await, "16");
    assert_eq!(client.call(LIST, Some(ROOT), framed(&[])).await, "0");
    guess(&mut client, 19).await;
    assert_eq!(client.call(VERIFY, Some(ROOT), framed(&check("x").encode_to_vec())).await, "0");
    guess(&mut client, 20).await;
    timeout(LONG, client.connection).await.unwrap().unwrap().unwrap();
}
