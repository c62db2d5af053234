//! The way out: sends one request to a receiver that somebody else has chosen.
//!
//! A connection is made for each request and to an address that was checked: what a name resolves to later cannot
//! matter. There is no proxy, no redirect is followed, and nothing waits longer than the time for the whole.

mod concurrency;
mod connect;
mod resolve;
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
    concurrency::{Place, Places, SLOW},
    resolve::{Resolve, SystemResolver},
};
use crate::domain::egress::{Egress, Target};

/// Bytes of an answer's body that are kept.
pub const KEPT: usize = 1_024;
/// How long an answer whose status is known may take to show what it says.
const BODY: Duration = Duration::from_secs(2);
/// Bytes of an answer's head.
const HEAD: usize = 16 * 1_024;

const USER_AGENT: &str = concat!("Keyward/", env!("CARGO_PKG_VERSION"));

/// What a receiver answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The first [`KEPT`] bytes of the body, as text.
    pub body: String,
}

/// Why there was no answer. The texts are for whoever set the URL: they do not say what a name resolved to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The URL is not good, or not any more.
    #[error("the URL {0}")]
    Refused(&'static str),
    /// The name has no address.
    #[error("the host's name could not be resolved")]
    Unresolved,
    /// The name has an address that may not be connected to.
    #[error("the host has an address that is not public")]
    NotPublic,
    /// No connection.
    #[error("could not connect: {0}")]
    Unreachable(String),
    /// No TLS.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// Not HTTP, or cut off.
    #[error("the receiver's answer could not be read: {0}")]
    Broken(String),
    /// Not in time.
    #[error("no answer in time")]
    TimedOut,
    /// Nothing was tried: as many requests as may be are under way to its addresses.
    #[error("too many requests to its addresses are under way")]
    Crowded,
}

/// Sends requests.
pub struct Courier {
    egress: Egress,
    resolver: Arc<dyn Resolve>,
    places: Arc<Places>,
    tls: TlsConnector,
    timeout: Duration,
}

impl Courier {
    /// A courier that goes where `egress` allows and `places` are free, and takes `timeout` for each request at most.
    pub fn new(egress: Egress, resolver: Arc<dyn Resolve>, places: Arc<Places>, timeout: Duration) -> Self {
        Self { egress, resolver, places, tls: tls_roots::connector(), timeout }
    }

    /// Where a URL leads.
    ///
    /// # Errors
    ///
    /// [`Failure::Refused`].
    pub fn target(&self, url: &str) -> Result<Target, Failure> {
        self.egress.target(url).map_err(Failure::Refused)
    }

    /// Posts a JSON body. Any status is an answer.
    ///
    /// # Errors
    ///
    /// Why there was none.
    pub async fn post(
        &self,
        target: &Target,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Answer, Failure> {
        timeout(self.timeout, self.exchange(target, headers, body)).await.unwrap_or(Err(Failure::TimedOut))
    }

    async fn exchange(
        &self,
        target: &Target,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let request = request(target, headers, body)?;
        let (tcp, _place) = connect::tcp(&self.egress, &*self.resolver, &self.places, target).await?;
        if !target.tls {
            return speak(tcp, request).await;
        }
        let name = connect::server_name(target)?;
        let tls = self.tls.connect(name, tcp).await.map_err(|error| Failure::Tls(error.to_string()))?;
        speak(tls, request).await
    }
}

fn request(
    target: &Target,
    headers: &[(HeaderName, HeaderValue)],
    body: Bytes,
) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(target.path.as_str())
        .header(header::HOST, target.authority.as_str())
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(body))
        .map_err(|_| Failure::Refused("cannot be asked for over HTTP"))?;
    request.headers_mut().extend(headers.iter().cloned());
    Ok(request)
}

/// One request and its answer on a connection.
async fn speak<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |error: hyper::Error| Failure::Broken(error.to_string());
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD).handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let exchange = async { Ok(read(sender.send_request(request).await.map_err(broken)?).await) };
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection may end before the answer that came on it was looked at.
        _ = &mut connection => exchange.await,
    }
}

async fn read(response: Response<Incoming>) -> Answer {
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut kept = Vec::new();
    let all = async {
        while kept.len() < KEPT
            && let Some(Ok(frame)) = body.frame().await
        {
            kept.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
    };
    // The status has decided; how the rest goes does not matter.
    let _ = timeout(BODY, all).await;
    Answer { status, body: text(&kept) }
}

/// At most [`KEPT`] bytes as a text that any database takes.
fn text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(&bytes[..bytes.len().min(KEPT)]).chars() {
        let c = if c == '\0' { char::REPLACEMENT_CHARACTER } else { c };
        if text.len() + c.len_utf8() > KEPT {
            break;
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests;
