//! An HTTP client for untrusted URLs: sends one request to a webhook's receiver.
//!
//! Each request has a connection of its own, to an address that was checked, so it does not matter what a name resolves
//! to later. No proxy is used, no redirect is followed, and one timeout bounds the whole request.

mod connect;
mod error;
mod resolve;
#[cfg(test)]
mod tests;
mod tls_roots;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::TlsConnector;

pub use self::{
    error::SendError,
    resolve::{DnsResolver, Resolve},
};
use super::scheduler::Slot;
use crate::domain::egress::{Egress, Target};

/// Bytes of a response's body that are kept.
const MAX_BODY_BYTES: usize = 1_024;
/// Time to read the body of a response whose status is known.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of a response's status line and headers. Only the status matters, but a proxy in front of the receiver may add
/// many headers: a delivery must not fail, and be repeated for days, because of them.
const MAX_HEADER_BYTES: usize = 64 * 1_024;
/// Number of a response's headers.
const MAX_HEADERS: usize = 1_000;

const USER_AGENT: &str = concat!("Keyward/", env!("CARGO_PKG_VERSION"));

/// What a receiver answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverResponse {
    /// The HTTP status.
    pub status: u16,
    /// The first [`MAX_BODY_BYTES`] of the body, as text.
    pub body: String,
}

/// Sends requests to receivers.
pub struct WebhookClient {
    egress: Egress,
    resolver: Arc<dyn Resolve>,
    tls: TlsConnector,
    timeout: Duration,
}

impl WebhookClient {
    /// A client that connects where `egress` allows, and spends at most `timeout` on a request.
    pub fn new(egress: Egress, resolver: Arc<dyn Resolve>, timeout: Duration) -> Self {
        Self { egress, resolver, tls: tls_roots::connector(), timeout }
    }

    /// Parses and checks a URL.
    ///
    /// # Errors
    ///
    /// [`SendError::Refused`].
    pub fn target(&self, url: &str) -> Result<Target, SendError> {
        self.egress.target(url).map_err(SendError::Refused)
    }

    /// Posts a JSON body; `slot` bounds how many connections its addresses have. Any status is a response.
    ///
    /// # Errors
    ///
    /// Why there is no response.
    pub(super) async fn post(
        &self,
        target: &Target,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
        slot: &mut Slot,
    ) -> Result<ReceiverResponse, SendError> {
        let exchange = self.exchange(target, headers, body, slot);
        timeout(self.timeout, exchange).await.unwrap_or(Err(SendError::TimedOut))
    }

    async fn exchange(
        &self,
        target: &Target,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
        slot: &mut Slot,
    ) -> Result<ReceiverResponse, SendError> {
        let request = request(target, headers, body)?;
        let tcp = connect::tcp(&self.egress, &*self.resolver, target, slot).await?;
        if !target.tls {
            return send(tcp, request).await;
        }
        let name = connect::server_name(target)?;
        let tls = self.tls.connect(name, tcp).await.map_err(|error| SendError::Tls(error.to_string()))?;
        send(tls, request).await
    }
}

fn request(
    target: &Target,
    headers: &[(HeaderName, HeaderValue)],
    body: Bytes,
) -> Result<Request<Full<Bytes>>, SendError> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(target.path.as_str())
        .header(header::HOST, target.authority.as_str())
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(body))
        .map_err(|_| SendError::Refused("cannot be asked for over HTTP"))?;
    request.headers_mut().extend(headers.iter().cloned());
    Ok(request)
}

/// Sends one request on a connection, and reads its response.
async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<ReceiverResponse, SendError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let invalid = |error: hyper::Error| SendError::InvalidResponse(error.to_string());
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(invalid)?;
    let exchange = async { Ok(read(sender.send_request(request).await.map_err(invalid)?).await) };
    tokio::pin!(exchange, connection);
    tokio::select! {
        response = &mut exchange => response,
        // The connection may end first, although a response that arrived on it is not read yet.
        _ = &mut connection => exchange.await,
    }
}

async fn read(response: Response<Incoming>) -> ReceiverResponse {
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut kept = Vec::new();
    let read_body = async {
        while kept.len() < MAX_BODY_BYTES
            && let Some(Ok(frame)) = body.frame().await
        {
            kept.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
    };
    // Only the status matters, so a body that fails or is late is cut off.
    let _ = timeout(BODY_TIMEOUT, read_body).await;
    ReceiverResponse { status, body: text(&kept) }
}

/// At most [`MAX_BODY_BYTES`] as text. Postgres does not allow NUL in text.
fn text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_BODY_BYTES)]).chars() {
        let c = if c == '\0' { char::REPLACEMENT_CHARACTER } else { c };
        if text.len() + c.len_utf8() > MAX_BODY_BYTES {
            break;
        }
        text.push(c);
    }
    text
}
