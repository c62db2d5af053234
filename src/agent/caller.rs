//! Who calls an agent.

use http::{HeaderMap, header::AUTHORIZATION};
use subtle::ConstantTimeEq as _;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
};

use super::settings::SocketAuth;
use crate::{
    domain::{
        error::{Error, Result},
        secret::Secret,
    },
    service::credential::bearer,
    transport::{grpc::metadata, rest::forward_auth::GATEWAY_CREDENTIAL},
};

/// The kind of socket that accepted a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SocketKind {
    /// A Unix socket.
    Unix,
    /// A loopback address, which every user of the machine can reach.
    Loopback,
}

/// The caller of a call, as it presents itself.
#[derive(Debug, Clone, Copy)]
pub(super) enum Caller<'a> {
    /// The holder of the agent's own credential, or a caller that the socket's file mode authenticates.
    Own,
    /// The holder of this secret.
    Secret(&'a str),
}

/// How callers authenticate.
pub(super) struct Callers {
    credential: Option<Secret>,
    socket_auth: SocketAuth,
}

impl Callers {
    pub(super) fn new(credential: Option<Secret>, socket_auth: SocketAuth) -> Self {
        Self { credential, socket_auth }
    }

    /// The caller of a call.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED without a credential where one is needed; INVALID_ARGUMENT with two.
    pub(super) fn of<'a>(&self, headers: &'a HeaderMap, origin: SocketKind) -> Result<Caller<'a>> {
        let trusted = origin == SocketKind::Unix && self.socket_auth == SocketAuth::FileMode;
        // A credential that was sent counts: an invalid one is refused, not replaced by the agent's.
        if trusted && !headers.contains_key(AUTHORIZATION) {
            return Ok(Caller::Own);
        }
        let secret = metadata::secret(headers)?;
        Ok(if self.is_own(secret) { Caller::Own } else { Caller::Secret(secret) })
    }

    /// The caller of an HTTP request of a gateway, in which `authorization` belongs to the gateway's client. None: the
    /// caller is not a gateway.
    pub(super) fn gateway<'a>(&self, headers: &'a HeaderMap, origin: SocketKind) -> Option<Caller<'a>> {
        let mut values = headers.get_all(GATEWAY_CREDENTIAL).iter();
        let Some(value) = values.next() else {
            let trusted = origin == SocketKind::Unix && self.socket_auth == SocketAuth::FileMode;
            return trusted.then_some(Caller::Own);
        };
        let text = value.to_str().ok().filter(|_| values.next().is_none())?;
        let secret = bearer(text).unwrap_or(text);
        Some(if self.is_own(secret) { Caller::Own } else { Caller::Secret(secret) })
    }

    /// Whether a text is the agent's own credential.
    pub(super) fn is_own(&self, text: &str) -> bool {
        self.credential.as_ref().is_some_and(|own| own.expose().as_bytes().ct_eq(text.as_bytes()).into())
    }
}

impl Caller<'_> {
    /// Adds the caller's credential to a call that a client without one makes.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED if the credential is not a valid header value.
    pub(super) fn authorize<T>(self, request: &mut Request<T>) -> Result<()> {
        if let Self::Secret(secret) = self {
            let value = format!("Bearer {secret}").parse::<MetadataValue<Ascii>>();
            let mut value = value.map_err(|_| Error::invalid_credential("MALFORMED"))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    fn kind(callers: &Callers, values: &[&str], origin: SocketKind) -> String {
        match callers.of(&headers(values), origin) {
            Ok(Caller::Own) => "own".to_owned(),
            Ok(Caller::Secret(secret)) => secret.to_owned(),
            Err(error) => error.reason.to_owned(),
        }
    }

    #[test]
    fn a_file_mode_stands_for_callers_of_its_socket_that_present_nothing() {
        let callers = |auth| Callers::new(Some(Secret::new("kw_own".to_owned())), auth);
        let (strict, trusting) = (callers(SocketAuth::Credential), callers(SocketAuth::FileMode));
        for (values, origin, of_strict, of_trusting) in [
            (&[][..], SocketKind::Unix, "MISSING_CREDENTIAL", "own"),
            (&[], SocketKind::Loopback, "MISSING_CREDENTIAL", "MISSING_CREDENTIAL"),
            (&["Bearer kw_own"], SocketKind::Loopback, "own", "own"),
            (&["Bearer kw_other"], SocketKind::Unix, "kw_other", "kw_other"),
            (&["Basic kw_other"], SocketKind::Unix, "MISSING_CREDENTIAL", "MISSING_CREDENTIAL"),
            (&["Bearer kw_own", "Bearer kw_own"], SocketKind::Unix, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
        ] {
            assert_eq!(kind(&strict, values, origin), of_strict, "{values:?} {origin:?}");
            assert_eq!(kind(&trusting, values, origin), of_trusting, "{values:?} {origin:?}");
        }
    }
}
