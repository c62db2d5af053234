//! On what terms a listener serves: TLS, age of connections, and how it ends.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{
    HeaderMap,
    header::{AUTHORIZATION, ORIGIN},
};
use tokio_util::sync::CancellationToken;

use super::tls::Tls;
use crate::domain::{
    caller::Caller,
    clock::Entropy,
    error::{Error, Result},
};

/// How long a connection that has reached its age has for what is under way on it.
pub const GRACE: Duration = Duration::from_secs(30);

/// The terms of a listener.
#[derive(Clone)]
pub struct Terms {
    /// None: plain text.
    pub tls: Option<Arc<Tls>>,
    /// The age at which a connection is ended, gracefully; none: never.
    pub max_age: Option<Duration>,
    /// Cancelled when no more connections are taken.
    pub stop: CancellationToken,
    /// How long calls in flight have from then on.
    pub drain: Duration,
}

impl Terms {
    /// The age at which one connection ends: up to a tenth less than the most, so that those made together do not come
    /// back together.
    pub fn age(&self, entropy: &dyn Entropy) -> Option<Duration> {
        let most = self.max_age?;
        let mut random = [0];
        entropy.fill(&mut random);
        Some(most.saturating_sub(most * u32::from(random[0]) / 2_560))
    }
}

/// Whoever is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Whether the connection is under TLS here.
    pub secure: bool,
    /// Who it is by its certificate; none if that tells nothing.
    pub caller: Option<Caller>,
    /// Cancelled when the connection is to end: what goes on without an end of its own ends then.
    pub leaving: CancellationToken,
}

impl Peer {
    /// Who a request comes from by the certificate of its connection; none if that tells nothing, or if the request has
    /// a header for credentials: whoever sends one means it, and must not become somebody else where it does not count.
    ///
    /// # Errors
    ///
    /// PERMISSION_DENIED to a page: a browser shows its certificate whichever page makes it ask.
    pub fn certified(&self, headers: &HeaderMap) -> Result<Option<&Caller>> {
        let Some(caller) = &self.caller else { return Ok(None) };
        if headers.contains_key(AUTHORIZATION) || headers.contains_key("x-api-key") {
            return Ok(None);
        }
        if headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site") {
            return Err(Error::forbidden("A client certificate is no credential for what a page asks"));
        }
        Ok(Some(caller))
    }
}
