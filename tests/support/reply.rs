//! A REST response; what every response must have is checked when it arrives.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reqwest::{RequestBuilder, header::HeaderMap};
use serde_json::Value;

/// A REST response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

/// Sends a request. Checks that the response has a request id, is not cacheable, and allows no other origin.
pub async fn reply(request: RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let reply = Reply { status, headers, text: response.text().await.unwrap() };
    assert!(reply.header("x-request-id").is_some_and(|id| !id.is_empty()), "{reply:?}");
    assert_eq!(reply.header("cache-control"), Some("no-store"), "{reply:?}");
    let cors = reply.headers.keys().find(|name| name.as_str().starts_with("access-control-"));
    assert_eq!(cors, None, "keys are for servers, not for pages of other origins");
    reply
}

impl Reply {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// A header that is a whole number.
    #[track_caller]
    pub fn number(&self, name: &str) -> i64 {
        let text = self.header(name).unwrap_or_else(|| panic!("no {name} in {self:?}"));
        text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}"))
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The body of a good answer.
    #[track_caller]
    pub fn good(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.json()
    }

    /// Checks an error in all its parts and answers its message.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> String {
        let body = self.json();
        assert_eq!((self.status, body["code"].as_str()), (status, Some(code)), "{self:?}");
        assert_eq!(names(&body), ["error", "message", "code"], "{self:?}");
        let error = match status {
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            409 => "Conflict",
            413 => "Payload Too Large",
            415 => "Unsupported Media Type",
            429 => "Too Many Requests",
            503 => "Service Unavailable",
            _ => panic!("no test expects {status}"),
        };
        assert_eq!(body["error"], error, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(self.header("www-authenticate").is_some(), status == 401, "{self:?}");
        assert_eq!(self.header("allow").is_some(), status == 405, "{self:?}");
        assert_eq!(self.header("retry-after").is_some(), matches!(status, 429 | 503), "{self:?}");
        body["message"].as_str().unwrap().to_owned()
    }

    /// Checks a refusal of a body or query that names each of these fields.
    #[track_caller]
    pub fn bad(&self, fields: &[&str]) -> String {
        let message = self.refused(400, "invalid_argument");
        let named: Vec<&str> = message.split("; ").filter_map(|part| part.split_once(": ")).map(|(f, _)| f).collect();
        assert_eq!(named, fields, "{self:?}");
        message
    }
}

/// The names of an object's fields, in order.
#[track_caller]
pub fn names(object: &Value) -> Vec<&str> {
    object.as_object().unwrap_or_else(|| panic!("{object} is no object")).keys().map(String::as_str).collect()
}

/// Now in unix milliseconds.
pub fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// The time after `wait`, in RFC 3339.
pub fn from_now(wait: Duration) -> String {
    let at = time::OffsetDateTime::from(SystemTime::now() + wait);
    at.format(&time::format_description::well_known::Rfc3339).unwrap()
}

/// Asks repeatedly until there is an answer; panics after 30 s, which is enough on a busy machine.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: not within 30 s")
}

/// Runs a scenario that measures a duration until one run stays within the bound: a busy machine delays some runs, but a
/// server that is too slow fails them all.
pub async fn within(bound: Duration, what: &str, mut scenario: impl AsyncFnMut() -> Duration) {
    let mut measured = Vec::new();
    for _ in 0..5 {
        let took = scenario().await;
        if took < bound {
            return;
        }
        measured.push(took);
    }
    panic!("{what}: not within {bound:?}: {measured:?}")
}

/// A short life for a key that must still be valid for a few calls, and its successors for runs in which a busy machine
/// needs longer for these calls.
pub fn short_lives() -> impl Iterator<Item = Duration> {
    [300, 1_200, 5_000, 15_000].map(Duration::from_millis).into_iter()
}
