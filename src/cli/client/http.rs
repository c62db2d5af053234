//! HTTP: requests that are repeated where that is safe, and responses of a bounded size.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode, Url, header, redirect};
use tokio::time::Instant;

use super::failure::{Failure, Result, chain};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest response. A page of a thousand keys at their maximum sizes is 7 MB.
const MAX_RESPONSE_BYTES: usize = 16 << 20;
/// First delay if the server names none; doubled with each further one.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(250);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(8);

/// Whether a request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Idempotent: it may be repeated.
    Safe,
    /// It may have taken effect although the response is an error that allows a retry, so only a refusal by a rate
    /// limit is repeated.
    OnlyIfRefused,
}

/// A request.
#[derive(Clone)]
pub struct Call {
    pub method: Method,
    pub url: Url,
    /// Headers with credentials among them.
    pub headers: header::HeaderMap,
    /// The content type and the body.
    pub body: Option<(&'static str, String)>,
    pub repeat: Repeat,
}

/// A response.
pub struct Reply {
    pub status: StatusCode,
    pub body: Vec<u8>,
    /// How long to wait before the request is repeated.
    pub retry_after: Option<Duration>,
}

/// A client of one command.
pub struct Http {
    client: Client,
    deadline: Instant,
}

impl Http {
    /// A client that stops trying after `timeout`.
    ///
    /// # Errors
    ///
    /// The system's certificates cannot be read.
    pub fn new(agent: &str, timeout: Duration) -> Result<Self> {
        // No redirects: one could lead a credential to another host.
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ATTEMPT_TIMEOUT)
            .user_agent(agent)
            .build()
            .map_err(|error| Failure::new(chain(&error)))?;
        Ok(Self { client, deadline: Instant::now() + timeout })
    }

    /// Time until this client stops trying.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Sends a request, and repeats it while the response allows a retry and `Repeat` does. Returns the last response.
    ///
    /// # Errors
    ///
    /// There is no response.
    pub async fn send(&self, call: &Call) -> Result<Reply> {
        let mut delay = MIN_RETRY_DELAY;
        loop {
            let reply = self.send_once(call).await?;
            let again = match reply.status {
                StatusCode::TOO_MANY_REQUESTS => true,
                StatusCode::SERVICE_UNAVAILABLE => call.repeat == Repeat::Safe,
                _ => false,
            };
            let wait = reply.retry_after.unwrap_or(delay);
            if !again || wait >= self.remaining() {
                return Ok(reply);
            }
            tokio::time::sleep(wait).await;
            delay = (delay * 2).min(MAX_RETRY_DELAY);
        }
    }

    /// Sends a request once.
    ///
    /// # Errors
    ///
    /// There is no response, or it is too long.
    pub async fn send_once(&self, call: &Call) -> Result<Reply> {
        let mut request = self.client.request(call.method.clone(), call.url.clone()).headers(call.headers.clone());
        if let Some((kind, body)) = &call.body {
            request = request.header(header::CONTENT_TYPE, *kind).body(body.clone());
        }
        let host = call.url.host_str().unwrap_or_default();
        let port = call.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let host = format!("{host}{port}");
        let failed = |error: &reqwest::Error| {
            let why = causes(error);
            if error.is_timeout() { format!("{host} does not answer in time") } else { format!("{host}: {why}") }
        };
        let mut response = request.send().await.map_err(|error| Failure::new(failed(&error)))?;
        let retry_after =
            response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| Failure::new(failed(&error)))? {
            if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                return Err(Failure::new(format_args!("{host}: the response is too long")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status, body, retry_after: retry_after.map(Duration::from_secs) })
    }
}

/// Why there is no response, without the URL, because its query may hold a secret.
fn causes(error: &reqwest::Error) -> String {
    let Some(source) = std::error::Error::source(error) else { return "the request failed".to_owned() };
    let all = chain(source);
    // Common failures have a sentence of their own; all others keep the library's text.
    if all.contains("Connection refused") {
        "nobody listens there".to_owned()
    } else if all.contains("dns error") {
        "there is no such host, or it cannot be looked up now".to_owned()
    } else if all.contains("InvalidContentType") {
        "it does not speak TLS; does its address begin with http://?".to_owned()
    } else {
        all.strip_prefix("client error (Connect): ").unwrap_or(&all).to_owned()
    }
}
