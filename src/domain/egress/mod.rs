//! Where webhooks may be sent: checks of a URL by itself, and of the addresses that its host resolves to.
//!
//! A caller that sets a webhook chooses where this server connects. Addresses that only this server's own network can
//! reach are therefore refused, unless the operator allows them.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

use super::ip_class;

/// Bytes in a webhook URL.
pub const MAX_URL_BYTES: usize = 2_048;

/// Ports of databases, and of protocols that could interpret parts of an HTTP request as commands.
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
    /// Allows `http://` as well as `https://`.
    pub allow_http: bool,
    /// Networks that are allowed although they are not public.
    pub allow_cidrs: Vec<IpNet>,
    /// Ports that are refused.
    pub deny_ports: Vec<u16>,
}

impl Default for Egress {
    fn default() -> Self {
        Self { allow_http: false, allow_cidrs: Vec::new(), deny_ports: DENIED_PORTS.to_vec() }
    }
}

/// A URL that is allowed, as far as that can be decided without resolving its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The scheme is `https`.
    pub tls: bool,
    /// An address, or a name in lower case without a trailing dot.
    pub host: Host,
    /// The port, which the scheme gives if the URL does not.
    pub port: u16,
    /// The host, with the port if it is not the scheme's own: the `Host` header, and the name by which attempts are
    /// bounded. All spellings of a host and port have the same one.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

/// The [`Target::authority`] of a URL, whether or not its target is allowed. Empty if there is none: the text is empty or
/// no URL of a webhook.
pub fn host_of(url: &str) -> String {
    let allow_cidrs = vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    let anything = Egress { allow_http: true, allow_cidrs, deny_ports: Vec::new() };
    anything.target(url).map(|target| target.authority).unwrap_or_default()
}

impl Egress {
    /// Parses and checks a webhook's URL.
    ///
    /// # Errors
    ///
    /// The rest of a sentence that begins with the field's name. It does not repeat the URL.
    pub fn target(&self, text: &str) -> Result<Target, &'static str> {
        let tls = self.check_text(text)?;
        let url = Url::parse(text).map_err(|_| "must be an absolute URL with a host")?;
        // The URL parser skips extra slashes and drops an empty user, so the text is checked, too.
        if !url.username().is_empty() || url.password().is_some() || written_authority(text).contains('@') {
            return Err("must not hold user information");
        }
        // The URL parser turns decimal, octal, hexadecimal, short and full-width spellings of an address into an address.
        let host = match url.host() {
            Some(Host::Domain(name)) if !written_authority(text).is_empty() => Host::Domain(self.normalize_name(name)?),
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

    /// Checks the text of a URL, because the URL parser repairs what is malformed. Returns whether the scheme is `https`.
    fn check_text(&self, text: &str) -> Result<bool, &'static str> {
        if text.len() > MAX_URL_BYTES {
            return Err("must be at most 2,048 bytes");
        }
        if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err("must not hold white space or control characters");
        }
        // Parsers disagree on whether a backslash ends the host.
        if text.contains('\\') {
            return Err("must not hold a backslash");
        }
        // The URL parser takes "https:example.com" for absolute, too.
        let begins = |scheme: &str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
        match (begins("https://"), begins("http://"), self.allow_http) {
            (true, ..) => Ok(true),
            (false, true, true) => Ok(false),
            (false, _, true) => Err("must be an absolute http or https URL"),
            (false, _, false) => Err("must be an absolute https URL"),
        }
    }

    /// A host's name as it is resolved.
    fn normalize_name(&self, name: &str) -> Result<String, &'static str> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err("must have a host that is a name of DNS or an address");
        }
        // Resolvers resolve these to loopback.
        if name.rsplit('.').next() == Some("localhost") {
            self.address(Ipv4Addr::LOCALHOST.into()).map_err(|_| NOT_PUBLIC)?;
        }
        Ok(name)
    }

    /// Whether an address may be connected to.
    ///
    /// # Errors
    ///
    /// The kind of network that the address is in.
    pub fn address(&self, ip: IpAddr) -> Result<(), &'static str> {
        if self.allow_cidrs.iter().any(|network| network.contains(&ip)) {
            return Ok(());
        }
        ip_class::special_purpose(ip).map_or(Ok(()), Err)
    }
}

const NOT_PUBLIC: &str = "must not name an address that is not public";

/// The text between `://` and the path.
fn written_authority(text: &str) -> &str {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())]
}

#[cfg(test)]
mod tests;
