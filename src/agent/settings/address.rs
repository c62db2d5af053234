//! Where an agent listens, and which replicas it may call without TLS.

use std::{fmt, net::SocketAddr, path::PathBuf};

use url::{Host, Url};

/// Where an agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::agent) enum Listen {
    /// A Unix socket.
    Unix(PathBuf),
    /// A loopback address.
    Loopback(SocketAddr),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Loopback(address) => address.fmt(f),
        }
    }
}

impl Listen {
    /// Parses the setting.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err("unix: needs an absolute path".to_owned())
            };
        }
        let address = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        };
        match address.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Loopback(address)),
            Ok(_) => Err("must be a loopback address: the agent answers on its own host".to_owned()),
            Err(_) => Err("must be unix:/path or a loopback address and a port".to_owned()),
        }
    }
}

/// Whether what is sent to an address cannot be read on the way.
pub(super) fn is_private(url: &str) -> bool {
    if url.starts_with("https://") || url.starts_with("unix:") {
        return true;
    }
    // What is no URL is refused when the client is built.
    let Ok(url) = Url::parse(url) else { return true };
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => true,
    }
}
