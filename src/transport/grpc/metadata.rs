//! What the metadata of a call says: the caller's credential and the deadline.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, header::AUTHORIZATION};
use tokio::time::Instant;
use tonic::Extensions;

use crate::{
    domain::{
        caller::Caller,
        error::{Error, Result},
    },
    service::credential::bearer,
    transport::{deadline, peer::Peer},
};

/// What a caller authenticates with.
pub(crate) enum Credential<'a> {
    /// A secret that is not verified yet.
    Secret(&'a str),
    /// A client certificate that the TLS handshake has verified.
    Certificate(&'a Caller),
}

impl<'a> Credential<'a> {
    /// The credential of a call. A secret takes precedence over a certificate. gRPC has no anonymous caller.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED without a credential, or with one that cannot be read; PERMISSION_DENIED as [`Peer::certified`].
    pub(crate) fn of(headers: &'a HeaderMap, peer: Option<&'a Peer>) -> Result<Self> {
        let certified = peer.map(|peer| peer.certified(headers)).transpose()?.flatten();
        match certified {
            Some(caller) => Ok(Self::Certificate(caller)),
            None => secret(headers).map(Self::Secret),
        }
    }
}

/// The secret in the `authorization` header.
///
/// # Errors
///
/// UNAUTHENTICATED if there is none, or if it cannot be read.
pub(crate) fn secret(headers: &HeaderMap) -> Result<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Err(Error::missing_credential()) };
    if values.next().is_some() {
        return Err(Error::invalid("authorization", "must be given once"));
    }
    match value.to_str() {
        Ok(text) => bearer(text).ok_or_else(Error::missing_credential),
        Err(_) => Err(Error::invalid_credential("MALFORMED")),
    }
}

/// The other end of the call's connection.
pub(crate) fn peer(extensions: &Extensions) -> Option<&Peer> {
    extensions.get::<Arc<Peer>>().map(|peer| &**peer)
}

/// When the server stops working on a call that arrived at `arrived`.
pub(crate) fn deadline(headers: &HeaderMap, arrived: Instant) -> Instant {
    let timeout = headers.get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?));
    deadline::deadline_after(arrived, timeout)
}

/// Parses a `grpc-timeout` value: up to 8 digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_timeout_is_digits_and_a_unit() {
        assert_eq!(timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "S", "5", "5s", "123456789S", "-5S", "5 S", "é"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }
}
