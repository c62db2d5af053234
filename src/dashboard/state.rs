//! What the handlers share, and the host that a request was sent to.

use std::sync::Arc;

use http::request::Parts;
use url::Url;

use crate::transport::rest::{extract::csrf, request::RequestContext};

/// The configuration of the dashboard.
#[derive(Debug, Clone)]
pub struct DashboardOptions {
    /// Its address as browsers see it; `None` where only browsers on this machine sign in at an issuer.
    pub url: Option<Url>,
}

/// The options, as an extension of each request.
#[derive(Clone)]
pub(crate) struct Shared(pub(super) Arc<DashboardOptions>);

/// The host that a request was sent to, and whether the browser used TLS.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// Host and port as the browser wrote them. The client chooses it, so it may only affect what this client itself
    /// gets.
    pub(super) host: String,
    /// Whether the browser's own connection is protected. If not, it is on this machine.
    pub(super) secure: bool,
    /// Whether the host is this machine.
    pub(super) local: bool,
}

impl Site {
    pub(super) fn of(parts: &Parts, context: &RequestContext) -> Self {
        let host = csrf::host(parts).unwrap_or_default();
        let local = is_local(&host);
        let forwarded =
            parts.headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes().starts_with(b"https"));
        Self { secure: context.peer().secure || forwarded || !local, host, local }
    }

    /// The address of the dashboard without a path; `None` if it is not configured and the browser is on another
    /// machine: a host that a client chose must not become part of an address that others get.
    pub(super) fn origin(&self, options: &DashboardOptions) -> Option<String> {
        match &options.url {
            Some(url) => Some(url.as_str().trim_end_matches('/').to_owned()),
            None if self.local => Some(format!("{}://{}", if self.secure { "https" } else { "http" }, self.host)),
            None => None,
        }
    }
}

fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_local() {
        for local in ["localhost", "localhost:8080", "127.0.0.1", "127.0.0.1:8080", "127.8.9.1", "[::1]:8080"] {
            assert!(is_local(local), "{local}");
        }
        for other in ["", "localhost.evil.example", "127.0.0.1.evil.example:8080", "10.0.0.1", "[::2]", "keys.example"]
        {
            assert!(!is_local(other), "{other}");
        }
    }
}
