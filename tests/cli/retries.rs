//! What is tried again, and what is not: a server that answers from a script.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::support::cli::Machine;

/// A server whose answers are given, in order; the last one is repeated.
pub struct Scripted {
    pub url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    pub fn new(answers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&requests);
        let mut answers: Vec<String> = answers.iter().rev().map(|answer| (*answer).to_owned()).collect();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                noted.lock().unwrap().push(request(&mut stream));
                let answer = if answers.len() > 1 { answers.pop().unwrap() } else { answers[0].clone() };
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { url, requests }
    }

    pub fn machine(&self) -> Machine {
        let mut machine = Machine::new();
        machine.set("KEYWARD_URL", &self.url).set("KEYWARD_API_KEY", "nrx_of_a_test");
        machine
    }

    fn lines(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Reads a request; its first line.
fn request(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if first.is_empty() {
            line.trim_end().clone_into(&mut first);
        }
    }
    let mut body = vec![0; length];
    let _ = reader.read_exact(&mut body);
    first
}

/// An answer as it is on the wire.
pub fn answer(status: &str, more: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn refusal(status: &str, code: &str, retry_after: u64) -> String {
    let body = format!(r#"{{"error": "e", "message": "A sentence", "code": "{code}"}}"#);
    answer(status, &format!("retry-after: {retry_after}\r\n"), &body)
}

const KEY: &str = r#"{"id": "key_1", "name": "ci", "key": "nrx_secret", "status": "active", "scopes": []}"#;

#[test]
fn a_read_is_repeated_after_429_and_503_and_waits_as_told() {
    let (busy, limited) =
        (refusal("503 Service Unavailable", "unavailable", 0), refusal("429 Too Many Requests", "rate_limited", 1));
    let scripted = Scripted::new(&[&busy, &limited, &answer("200 OK", "", KEY)]);
    let start = Instant::now();
    scripted.machine().run(&["keys", "get", "key_1", "-o", "id"]).good();
    assert!(start.elapsed() >= Duration::from_secs(1), "Retry-After");
    assert_eq!(scripted.lines(), vec!["GET /api/api-keys/key_1 HTTP/1.1"; 3]);
}

#[test]
fn a_creation_is_repeated_after_429_only() {
    let limited = refusal("429 Too Many Requests", "rate_limited", 0);
    let scripted = Scripted::new(&[&limited, &answer("201 Created", "", KEY)]);
    assert_eq!(scripted.machine().run(&["keys", "create", "ci"]).good(), "nrx_secret\n");
    assert_eq!(scripted.lines().len(), 2);

    // It may have happened: a second one would be a second key.
    let scripted =
        Scripted::new(&[&refusal("503 Service Unavailable", "unavailable", 0), &answer("201 Created", "", KEY)]);
    let err = scripted.machine().run(&["keys", "create", "ci"]).failed(1);
    assert!(err.contains("A sentence"), "{err}");
    assert_eq!(scripted.lines().len(), 1);

    // The same holds where the connection ends without an answer.
    let scripted = Scripted::new(&[""]);
    scripted.machine().run(&["keys", "create", "ci"]).failed(1);
    assert_eq!(scripted.lines().len(), 1);
}

#[test]
fn a_wait_that_is_too_long_is_not_begun() {
    let scripted = Scripted::new(&[&refusal("429 Too Many Requests", "rate_limited", 3_600)]);
    let start = Instant::now();
    let err = scripted.machine().run(&["whoami"]).failed(1);
    assert!(err.contains("try again in 3600 s") && start.elapsed() < Duration::from_secs(20), "{err}");
}

#[test]
fn a_pending_revocation_is_repeated_until_it_is_certain() {
    let pending = refusal("503 Service Unavailable", "revocation_pending", 1);
    let done = answer("200 OK", "", r#"{"id": "key_1", "name": "ci", "status": "revoked", "scopes": []}"#);
    let scripted = Scripted::new(&[&pending, &pending, &done]);
    let ran = scripted.machine().run(&["keys", "revoke", "key_1", "--yes"]);
    assert!(ran.err.contains("certain on every replica"), "{ran:?}");
    assert_eq!((ran.code, scripted.lines()), (Some(0), vec!["DELETE /api/api-keys/key_1 HTTP/1.1".to_owned(); 3]));

    let scripted = Scripted::new(&[&pending]);
    let err = scripted.machine().run(&["keys", "revoke", "key_1", "--yes", "--timeout", "2s"]).failed(1);
    assert!(err.contains("NOT YET CERTAIN") && err.contains("again"), "{err}");
}

#[test]
fn a_redirect_is_not_followed() {
    let scripted = Scripted::new(&[&answer("302 Found", "location: http://127.0.0.1:9/\r\n", "")]);
    let err = scripted.machine().run(&["whoami"]).failed(1);
    assert!(err.contains("302"), "{err}");
}
