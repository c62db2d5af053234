//! Where a webhook may be sent: a URL that can be judged by itself, and the addresses that its host turns out to have.
//!
//! Whoever may set a webhook chooses where this server connects to. What only this server's own network reaches is
//! therefore out of bounds, unless the operator says otherwise.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use url::{Host, Url};

use super::ip_class;

/// Bytes in a webhook URL.
pub const LENGTH: usize = 2_048;

/// Ports of protocols that a request of HTTP could be mistaken for, and of databases.
pub const DENIED_PORTS: &[u16] = &[
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110,
    111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 445, 465, 512, 513, 514, 515, 526, 530, 531,
    532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1_433, 1_521, 1_719, 1_720, 1_723, 2_049, 2_375,
    2_379, 3_306, 3_389, 3_659, 4_045, 4_190, 5_060, 5_061, 5_432, 6_000, 6_379, 6_566, 6_665, 6_666, 6_667, 6_668,
    6_669, 6_697, 9_042, 10_080, 11_211, 27_017,
];

/// What the operator allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// Whether `http://` is good, too.
    pub allow_http: bool,
    /// Networks that are good whatever they are otherwise.
    pub allow_cidrs: Vec<IpNet>,
    /// Ports that are not.
    pub deny_ports: Vec<u16>,
}

impl Default for Egress {
    fn default() -> Self {
        Self { allow_http: false, allow_cidrs: Vec::new(), deny_ports: DENIED_PORTS.to_vec() }
    }
}

/// A URL that was found good, as far as it can be seen without resolving its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// The host: an address, or a name in lower case without a dot at its end.
    pub host: Host,
    /// The port.
    pub port: u16,
    /// `Host` as HTTP has it: with the port, where that is not the scheme's own.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

impl Egress {
    /// Reads a webhook's URL.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as a sentence without a subject that does not repeat it.
    pub fn target(&self, text: &str) -> Result<Target, &'static str> {
        let tls = self.written(text)?;
        let url = Url::parse(text).map_err(|_| "must be an absolute URL with a host")?;
        // The URL standard skips extra slashes and drops an empty user: what was written is looked at too.
        if !url.username().is_empty() || url.password().is_some() || authority(text).contains('@') {
            return Err("must not hold user information");
        }
        // Decimal, octal, hexadecimal, short and full-width spellings of an address are addresses from here on.
        let host = match url.host() {
            Some(Host::Domain(name)) if !authority(text).is_empty() => Host::Domain(self.name(name)?),
            Some(Host::Ipv4(v4)) => Host::Ipv4(v4),
            Some(Host::Ipv6(v6)) => Host::Ipv6(v6),
            _ => return Err("must have a host"),
        };
        match host {
            Host::Ipv4(v4) => self.address(v4.into()).map_err(|_| NOT_PUBLIC)?,
            Host::Ipv6(v6) => self.address(v6.into()).map_err(|_| NOT_PUBLIC)?,
            Host::Domain(_) => {}
        }
        let port = url.port_or_known_default().unwrap_or_default();
        if port == 0 || self.deny_ports.contains(&port) {
            return Err("must not name a port that is not for webhooks");
        }
        let authority = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
        let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        Ok(Target { tls, host, port, authority, path })
    }

    /// Looks at a URL before it is parsed: the parser repairs too much. Says whether it is of TLS.
    fn written(&self, text: &str) -> Result<bool, &'static str> {
        if text.len() > LENGTH {
            return Err("must be at most 2,048 bytes");
        }
        if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err("must not hold white space or control characters");
        }
        // To some readers it ends the host, to others it does not.
        if text.contains('\\') {
            return Err("must not hold a backslash");
        }
        // The URL standard would also read "https:example.com" as absolute.
        let begins = |scheme: &str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
        match (begins("https://"), begins("http://"), self.allow_http) {
            (true, ..) => Ok(true),
            (false, true, true) => Ok(false),
            (false, _, true) => Err("must be an absolute http or https URL"),
            (false, _, false) => Err("must be an absolute https URL"),
        }
    }

    /// A host's name as it will be asked for.
    fn name(&self, name: &str) -> Result<String, &'static str> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err("must have a host that is a name of DNS or an address");
        }
        // These mean this machine wherever they are asked for.
        if name.rsplit('.').next() == Some("localhost") {
            self.address(Ipv4Addr::LOCALHOST.into()).map_err(|_| NOT_PUBLIC)?;
        }
        Ok(name)
    }

    /// Whether an address may be connected to.
    ///
    /// # Errors
    ///
    /// The kind of network that it is in.
    pub fn address(&self, ip: IpAddr) -> Result<(), &'static str> {
        if self.allow_cidrs.iter().any(|network| network.contains(&ip)) {
            return Ok(());
        }
        ip_class::special(ip).map_or(Ok(()), Err)
    }
}

const NOT_PUBLIC: &str = "must not name an address that is not public";

/// What stands between `://` and the path.
fn authority(text: &str) -> &str {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())]
}

#[cfg(test)]
mod tests;
