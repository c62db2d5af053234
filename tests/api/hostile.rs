//! Hostile clients of both ports, and an honest one at the same time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::Request;
use keyward::proto::{Code, CreateRequest};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::support::{
    Server, Setup,
    grpc::{Client, code, key},
    server::{ROOT, with},
};

const CONNECTIONS: usize = 100;
/// What all hostile connections together may add to the memory of the process.
const MAX_ADDED_BYTES: u64 = 64 << 20;
/// Between the calls of the honest client, with and without hostile ones.
const BETWEEN_CALLS: Duration = Duration::from_millis(5);
/// Far longer than any call takes on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);

/// What a hostile client sends, frame by frame, whatever the server answers.
pub struct Flood {
    pub path: &'static str,
    /// A GET without a body; otherwise a gRPC call that promises a message of 1 MiB and sends nothing of it.
    pub gets: bool,
    pub authorization: Option<&'static str>,
    /// Bytes of additional headers.
    pub headers: usize,
    pub streams: u32,
    /// The client reads the responses.
    pub reads: bool,
}

/// One that promises messages to the gRPC port.
pub const FLOOD: Flood = Flood {
    path: "/keyward.v1.KeyService/Create",
    gets: false,
    authorization: None,
    headers: 0,
    streams: 1_000,
    reads: true,
};

/// An integer of HPACK with a prefix of this many bits.
fn integer(bytes: &mut Vec<u8>, prefix: u32, value: usize) {
    let max = (1_usize << prefix) - 1;
    if value < max {
        return bytes.push(value.try_into().unwrap());
    }
    bytes.push(max.try_into().unwrap());
    let mut rest = value - max;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 0x80);
        rest /= 128;
    }
    bytes.push(rest.try_into().unwrap());
}

/// A header list, without compression.
pub fn header_block(flood: &Flood) -> Vec<u8> {
    let mut block = Vec::new();
    let mut header = |name: &str, value: &str| {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, 7, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    };
    header(":method", if flood.gets { "GET" } else { "POST" });
    header(":scheme", "http");
    header(":authority", "keyward");
    header(":path", flood.path);
    if !flood.gets {
        header("content-type", "application/grpc");
        header("te", "trailers");
    }
    if let Some(authorization) = flood.authorization {
        header("authorization", authorization);
    }
    if flood.headers > 0 {
        header("x-filler", &"x".repeat(flood.headers));
    }
    block
}

pub fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

/// The preface of HTTP/2, and empty settings.
pub fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, 4, 0, 0, &[]);
    bytes
}

/// Everything that one hostile client sends.
pub fn flood_bytes(flood: &Flood) -> Vec<u8> {
    let mut bytes = preface();
    let block = header_block(flood);
    for number in 0..flood.streams {
        let stream = 2 * number + 1;
        if flood.gets {
            frame(&mut bytes, 1, 5, stream, &block);
        } else {
            frame(&mut bytes, 1, 4, stream, &block);
            frame(&mut bytes, 0, 0, stream, &[0, 0, 16, 0, 0]);
        }
    }
    bytes
}

/// Requests that each make an entry in the table of header compression. The entry is small, and what it was read from is
/// not.
pub fn table_bytes() -> Vec<u8> {
    let mut bytes = preface();
    for number in 0..120 {
        let mut block = vec![0];
        for text in [1, 16_000] {
            integer(&mut block, 7, text);
            block.resize(block.len() + text, b'x');
        }
        // `:path`, to be kept.
        block.extend_from_slice(b"\x44\x01/");
        frame(&mut bytes, 1, 5, 2 * number + 1, &block);
    }
    bytes
}

/// Sends a flood and keeps the connection open.
pub async fn pour(server: String, bytes: Arc<Vec<u8>>, reads: bool) {
    let Ok(stream) = TcpStream::connect(server).await else { return };
    let (mut reader, mut writer) = stream.into_split();
    let read = async {
        let mut buffer = vec![0; 1 << 14];
        while reads && reader.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        std::future::pending::<()>().await;
    };
    let write = async {
        // The server may close the connection, or stop to read from it.
        let _ = writer.write_all(&bytes).await;
        std::future::pending::<()>().await;
    };
    tokio::join!(read, write);
}

/// A client that speaks HTTP/2 as it should.
pub struct Polite {
    pub sender: SendRequest<Bytes>,
    pub connection: JoinHandle<Result<(), h2::Error>>,
    content_type: &'static str,
}

impl Polite {
    pub async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        Self { sender, connection: tokio::spawn(connection), content_type: "application/grpc" }
    }

    /// A client of the REST port.
    pub async fn rest(address: &str) -> Self {
        Self { content_type: "application/json", ..Self::connect(address).await }
    }

    pub fn begin(
        &mut self,
        path: &str,
        credential: Option<&str>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let request = Request::post(format!("http://keyward{path}")).header("content-type", self.content_type);
        let request = match credential {
            Some(credential) => request.header("authorization", format!("Bearer {credential}")),
            None => request,
        };
        self.sender.send_request(request.body(()).unwrap(), false)
    }

    /// Makes a call, and returns its gRPC status.
    pub async fn call(&mut self, path: &str, credential: Option<&str>, body: Vec<u8>) -> String {
        self.sender = self.sender.clone().ready().await.unwrap();
        let (answer, mut stream) = self.begin(path, credential).unwrap();
        let _ = stream.send_data(body.into(), true);
        let (head, body) = answer.await.unwrap().into_parts();
        match head.headers.get("grpc-status") {
            Some(status) => status.to_str().unwrap().to_owned(),
            None => trailer(body).await,
        }
    }
}

/// The gRPC status after a response.
pub async fn trailer(mut body: RecvStream) -> String {
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap().unwrap();
    trailers["grpc-status"].to_str().unwrap().to_owned()
}

pub fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// What a hostile client sends that keeps to HTTP/2: on each stream as much of a message as the server takes, and never
/// the end.
#[derive(Clone)]
pub struct Hold {
    pub rest: bool,
    pub path: &'static str,
    pub credential: Option<String>,
    /// Length of the message. Its last byte is not sent.
    pub message: usize,
    pub streams: usize,
}

/// Holds the streams of one connection. `sent_bytes` counts the bytes that the server has taken.
pub async fn hold(server: String, hold: Hold, sent_bytes: Arc<AtomicUsize>) {
    let mut client = if hold.rest { Polite::rest(&server).await } else { Polite::connect(&server).await };
    let mut streams = Vec::new();
    let mut whole = Bytes::from(if hold.rest { vec![b' '; hold.message] } else { framed(&vec![0; hold.message]) });
    whole.truncate(whole.len() - 1);
    for _ in 0..hold.streams {
        let Ok(ready) = client.sender.clone().ready().await else { break };
        client.sender = ready;
        let Ok((answer, mut stream)) = client.begin(hold.path, hold.credential.as_deref()) else { break };
        let mut left = whole.clone();
        let sent_bytes = Arc::clone(&sent_bytes);
        streams.push(tokio::spawn(async move {
            while !left.is_empty() {
                stream.reserve_capacity(left.len());
                let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
                if stream.send_data(left.split_to(room.min(left.len())), false).is_err() {
                    return;
                }
                sent_bytes.fetch_add(room, Ordering::Relaxed);
            }
            // Keeps the stream open as long as the server does.
            drop(answer.await);
            std::future::pending::<()>().await;
        }));
    }
    let _ = client.connection.await;
    for stream in streams {
        stream.abort();
    }
}

/// The value of a line of `/proc/PID/status`, in bytes.
pub fn memory(server: &Server, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).unwrap();
    value.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// The 99th percentile of calls that follow each other.
fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() * 99 / 100]
}

async fn create(client: &mut Client) -> Result<(), tonic::Status> {
    let request = CreateRequest { organization: "acme".into(), ..CreateRequest::default() };
    client.create(with(ROOT, request)).await.map(drop)
}

/// Hostile clients, on a thread of their own, so that the order of their tasks does not delay the honest client. Dropping
/// this ends them.
struct Attackers {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Attackers {
    fn start<F: Future<Output = ()> + Send + 'static>(attacks: Vec<F>) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let attacks: Vec<_> = attacks.into_iter().map(tokio::spawn).collect();
                let _ = stopped.await;
                drop(attacks);
            });
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().expect("is set until here").join();
        assert!(ended.is_ok() || std::thread::panicking(), "a hostile client failed");
    }
}

/// A server whose largest size the user of the tests may reset.
pub fn measurable() -> Setup {
    Setup::new().env("KEYWARD_DUMPABLE", "true")
}

/// Runs hostile clients and an honest one at the same time. The memory of the process stays within its bound, and every
/// honest call is answered. Returns what was added, in bytes.
pub async fn assert_bounded<F: Future<Output = ()> + Send + 'static>(
    name: &str,
    server: &Server,
    attack: impl Fn() -> F,
) -> u64 {
    let mut client = server.client().await;
    let made = key(&mut client, "", "acme", &[]).await;
    let mut alone = Vec::new();
    for _ in 0..400 {
        let start = Instant::now();
        assert_eq!(code(&mut client, &made.secret).await, Code::Valid);
        alone.push(start.elapsed());
        sleep(BETWEEN_CALLS).await;
    }
    let before = memory(server, "VmRSS");
    // From here on, `VmHWM` is the largest size since now.
    std::fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").unwrap();
    let attackers = Attackers::start((0..CONNECTIONS).map(|_| attack()).collect());
    let (start, mut attacked) = (Instant::now(), Vec::new());
    while start.elapsed() < Duration::from_secs(5) || attacked.len() < 200 {
        let honest = async {
            let start = Instant::now();
            assert_eq!(code(&mut client, &made.secret).await, Code::Valid);
            attacked.push(start.elapsed());
            if attacked.len() % 50 == 0 {
                // A caller that comes during the attack.
                let mut late = server.client().await;
                assert_eq!(code(&mut late, &made.secret).await, Code::Valid);
                // A debug build on a busy machine may be too slow for the deadline of a write.
                while create(&mut late).await.is_err() {}
            }
        };
        timeout(LONG, honest).await.unwrap_or_else(|_| panic!("{name}: an honest caller got no answer"));
        sleep(BETWEEN_CALLS).await;
    }
    let added = memory(server, "VmHWM").saturating_sub(before);
    let (alone, attacked) = (p99(alone), p99(attacked));
    println!(
        "{name}: {} MiB added to {} MiB; p99 {alone:?} alone, {attacked:?} under attack",
        added >> 20,
        before >> 20
    );
    assert!(added <= MAX_ADDED_BYTES, "{name}: {} MiB", added >> 20);
    drop(attackers);
    added
}

/// An issuer that takes connections and says nothing, so that its tokens cannot be judged, and a token of it.
pub fn mute_issuer() -> (std::net::TcpListener, String, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("https://{}", listener.local_addr().unwrap());
    let text = format!(
        "[[session.issuer]]\nissuer = \"{issuer}\"\naudience = \"a\"\nalgorithms = [\"RS256\"]\nkeyspaces = [\"norrix\"]\n\
         claims = {{ organizations = \"o\", role = \"r\" }}\n"
    );
    let part = |json: serde_json::Value| BASE64URL_NOPAD.encode(json.to_string().as_bytes());
    let head = part(json!({"alg": "RS256", "kid": "k", "typ": "JWT"}));
    let claims = part(json!({"iss": issuer, "aud": "a", "sub": "s", "exp": 4_000_000_000_u64}));
    (listener, text, format!("{head}.{claims}.{}", BASE64URL_NOPAD.encode(&[7; 256])))
}
