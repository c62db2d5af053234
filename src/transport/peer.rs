//! The client side of one connection.

use std::{net::IpAddr, sync::Arc};

use http::{
    HeaderMap,
    header::{AUTHORIZATION, ORIGIN},
};
use tokio_util::sync::CancellationToken;

use super::accept::Admission;
use crate::domain::{
    caller::Caller,
    error::{Error, Result},
};

/// The client of one connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Whether the connection uses TLS.
    pub secure: bool,
    /// The caller that its certificate identifies, if it does.
    pub caller: Option<Caller>,
    /// Cancelled when the connection is closing. Responses without an end of their own end then.
    pub closing: CancellationToken,
    /// The connection's slot in its listener's table. It records whether a call was authenticated on the connection.
    pub admission: Arc<Admission>,
}

impl Peer {
    /// Counts a refused credential, and closes the connection after too many in a row.
    pub(crate) fn refused(&self) {
        if self.admission.refused() {
            self.closing.cancel();
        }
    }

    /// Returns the caller that the client certificate identifies. A request with a header for credentials has no such
    /// caller: an invalid credential must be refused, not replaced by the certificate.
    ///
    /// # Errors
    ///
    /// PERMISSION_DENIED for a request of a web page: a browser presents its certificate for every page, whichever
    /// site the page is from.
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
