//! An HTTP/1.1 client that sends paths and headers byte for byte: other clients would normalize paths and join headers.

#![allow(dead_code, reason = "each test target uses a part of this")]

use std::{fmt::Write as _, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// One response must come within this time, also on a busy machine.
const RESPONSE_TIMEOUT: Duration = Duration::from_mins(1);

/// A connection that is kept.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Connection {
    pub async fn open(address: &str) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), buffer: Vec::new() }
    }

    /// Sends a request without a body, and waits for the response.
    pub async fn send(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
        self.start(method, target, headers).await;
        self.response().await
    }

    /// Sends the head of a request.
    pub async fn start(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: api.example\r\n");
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        self.write((head + "\r\n").as_bytes()).await;
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Waits for a response.
    pub async fn response(&mut self) -> Response {
        timeout(RESPONSE_TIMEOUT, self.read_response()).await.expect("a response in time")
    }

    /// Waits for this many bytes.
    pub async fn exactly(&mut self, count: usize) -> Vec<u8> {
        timeout(RESPONSE_TIMEOUT, async {
            while self.buffer.len() < count {
                assert!(self.fill().await, "the connection ended");
            }
            self.buffer.drain(..count).collect()
        })
        .await
        .expect("the bytes in time")
    }

    async fn read_response(&mut self) -> Response {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.fill().await, "the connection ended: {}", String::from_utf8_lossy(&self.buffer));
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        let mut response = Response { status, headers: lines.map(header).collect(), body: Vec::new() };
        if status == 101 || status == 204 {
            return response;
        }
        if response.header("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.line().await;
                let size = usize::from_str_radix(&line, 16).unwrap();
                response.body.extend(self.exactly(size).await);
                self.line().await;
                if size == 0 {
                    return response;
                }
            }
        }
        if let Some(length) = response.header("content-length").map(|length| length.parse().unwrap()) {
            response.body = self.exactly(length).await;
        } else {
            while self.fill().await {}
            response.body = std::mem::take(&mut self.buffer);
        }
        response
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return String::from_utf8(line[..at].to_vec()).unwrap();
            }
            assert!(self.fill().await, "the connection ended");
        }
    }

    async fn fill(&mut self) -> bool {
        self.stream.read_buf(&mut self.buffer).await.is_ok_and(|read| read > 0)
    }
}

impl Response {
    /// A header that is there at most once.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(given, _)| given == name).map(|(_, value)| value.as_str());
        let first = values.next();
        assert_eq!(values.next(), None, "{name} is there twice: {self:?}");
        first
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The refusal is Keyward's, with exactly this body.
    #[track_caller]
    pub fn refused(&self, status: u16, error: &str, message: &str, code: &str) {
        let expected = serde_json::json!({"error": error, "message": message, "code": code});
        assert_eq!((self.status, self.json()), (status, expected), "{self:?}");
        assert!(self.header("content-type").is_some_and(|kind| kind.starts_with("application/json")), "{self:?}");
        assert_eq!(self.header("www-authenticate").is_some(), status == 401, "{self:?}");
        assert_eq!(self.header("retry-after").is_some(), matches!(status, 429 | 503), "{self:?}");
    }

    /// A refusal of the credential with this code.
    #[track_caller]
    pub fn unauthorized(&self, code: &str) {
        let message =
            if code == "missing_credential" { "No authentication provided" } else { "Invalid or expired API key" };
        self.refused(401, "Unauthorized", message, code);
    }
}

/// Sends one request on a connection of its own.
pub async fn send(address: &str, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    Connection::open(address).await.send(method, target, headers).await
}
