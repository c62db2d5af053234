//! Building a client.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use tonic::transport::{Channel, Endpoint as TonicEndpoint};
use zeroize::Zeroizing;

#[cfg(feature = "tls")]
use crate::tls::Tls;
use crate::{client::Client, credential::Credential, endpoint::Endpoint, endpoints::Endpoints, error::BuildError};

/// Addresses of one client.
const MAX_ENDPOINTS: usize = 64;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest timeout of a check: that of the server's own calls is 30 s.
const MAX_TIMEOUT: Duration = Duration::from_mins(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection on which nothing arrives for this long is pinged, and closed if no answer arrives within
/// [`KEEPALIVE_TIMEOUT`]. This detects a peer that vanished without closing the connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Builds a [`Client`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct ClientBuilder {
    urls: Vec<String>,
    credential: Option<Zeroizing<String>>,
    timeout: Duration,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

impl ClientBuilder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            urls: vec![url],
            credential: None,
            timeout: DEFAULT_TIMEOUT,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// A further address of the same Keyward. Calls use the addresses round robin; one that fails is skipped until a
    /// probe of it succeeds. At most 64.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// The credential that this client calls with: a service key (`kw_…` with the scope `verify`) for checks. Without
    /// one, only a client certificate identifies this client.
    pub fn credential(mut self, credential: impl Into<String>) -> Self {
        self.credential = Some(Zeroizing::new(credential.into()));
        self
    }

    /// How long a check may take, retries included: 2 s if it is not set, and at most a minute.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The trusted certificate authorities, and the client's certificate. An `https` URL without it trusts the
    /// authorities of the operating system.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Builds the client. Connections are made when they are needed.
    ///
    /// # Errors
    ///
    /// The setting that is invalid, and why.
    pub fn build(self) -> Result<Client, BuildError> {
        // Connections are driven by tasks, which need a runtime.
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BuildError::new("runtime", "build must be called within a tokio runtime"));
        }
        if self.urls.len() > MAX_ENDPOINTS {
            return Err(BuildError::new("endpoint", "must be at most 64 addresses"));
        }
        if self.timeout.is_zero() || self.timeout > MAX_TIMEOUT {
            return Err(BuildError::new("timeout", "must be more than 0 and at most a minute"));
        }
        let credential = match &self.credential {
            None => Credential::none(),
            Some(text) => {
                let why = "must be visible ASCII characters, at least one";
                Credential::bearer(text).ok_or_else(|| BuildError::new("credential", why))?
            }
        };
        let channels = self.urls.iter().map(|url| Ok(Endpoint::new(self.channel(url)?, credential.clone())));
        let channels: Vec<_> = channels.collect::<Result<_, _>>()?;
        let first = usize::from(RandomState::new().hash_one(()).to_le_bytes()[0]);
        Ok(Client::new(Endpoints::new(channels, first), self.timeout))
    }

    #[cfg(feature = "tls")]
    fn channel(&self, url: &str) -> Result<Channel, BuildError> {
        let Some(rest) = url.strip_prefix("https://") else {
            // Otherwise `http` written for `https` would send the credential in plain text.
            if self.tls.is_some() {
                return Err(BuildError::new("tls", "is set, and an endpoint is not https"));
            }
            return Ok(address(url)?.connect_lazy());
        };
        // Tonic's own TLS needs other features of rustls than the rest of this project uses.
        let plain = address(&format!("http://{rest}"))?;
        let secure = url.parse::<http::Uri>().map_err(|_| BuildError::new("endpoint", "is not a URL"))?;
        let tls = self.tls.clone().unwrap_or_else(Tls::native_roots);
        let connector = tls.connector(&secure)?;
        Ok(plain.origin(secure).connect_with_connector_lazy(connector))
    }

    #[cfg(not(feature = "tls"))]
    fn channel(&self, url: &str) -> Result<Channel, BuildError> {
        if url.starts_with("https:") {
            return Err(BuildError::new("endpoint", "https needs the feature `tls`"));
        }
        Ok(address(url)?.connect_lazy())
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("endpoints", &self.urls.len()).finish_non_exhaustive()
    }
}

/// The address of a URL. The error must not repeat the URL: somebody may have put a password into it.
fn address(url: &str) -> Result<TonicEndpoint, BuildError> {
    let bad = || BuildError::new("endpoint", "must be http://host:port, https://host:port or unix:/path");
    let path = url.strip_prefix("unix:");
    let known = ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
    if !known && path.is_none_or(|path| !path.starts_with('/')) {
        return Err(bad());
    }
    let endpoint = TonicEndpoint::from_shared(url.to_owned()).map_err(|_| bad())?;
    let uri = endpoint.uri();
    let plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    if path.is_none() && (!plain || uri.path() != "/" || uri.query().is_some()) {
        return Err(bad());
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(builder: ClientBuilder) -> Option<&'static str> {
        builder.build().err().map(|error| error.setting())
    }

    #[tokio::test]
    async fn bad_settings_are_named() {
        let good = || Client::builder("http://127.0.0.1:1").credential("kw_x");
        assert_eq!(setting(good()), None);
        assert_eq!(setting(Client::builder("unix:/run/keyward.sock")), None);
        for url in [
            "",
            "127.0.0.1:1",
            "ftp://host:1",
            "http://",
            "http://user:password@host:1",
            "http://host:1/path",
            "unix:relative",
        ] {
            assert_eq!(setting(Client::builder(url)), Some("endpoint"), "{url}");
            assert_eq!(setting(good().endpoint(url)), Some("endpoint"), "{url}");
        }
        let many = (0..MAX_ENDPOINTS).fold(good(), |builder, _| builder.endpoint("http://127.0.0.1:1"));
        assert_eq!(setting(many), Some("endpoint"));
        assert_eq!(setting(good().credential("two words")), Some("credential"));
        assert_eq!(setting(good().timeout(Duration::ZERO)), Some("timeout"));
        assert_eq!(setting(good().timeout(Duration::from_secs(61))), Some("timeout"));
    }

    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn tls_is_not_silently_left_out() {
        assert_eq!(setting(Client::builder("http://127.0.0.1:1").tls(Tls::native_roots())), Some("tls"));
        assert_eq!(setting(Client::builder("https://127.0.0.1:1")), None);
        assert_eq!(setting(Client::builder("https://127.0.0.1:1").tls(Tls::authority("no PEM"))), Some("tls"));
        let no_pem = Tls::native_roots().identity("no PEM", "no PEM");
        assert_eq!(setting(Client::builder("https://127.0.0.1:1").tls(no_pem)), Some("tls"));
    }

    #[test]
    fn a_client_needs_a_runtime() {
        assert_eq!(setting(Client::builder("http://127.0.0.1:1")), Some("runtime"));
    }

    #[test]
    fn errors_do_not_repeat_the_url() {
        assert!(!address("http://user:password@host:1").unwrap_err().to_string().contains("password"));
    }
}
