//! `[tls]`: certificates of both listeners, and which client certificates are callers.

use std::path::PathBuf;

use super::{Source, reader::Section};

/// `[tls]`
#[derive(Debug, Clone)]
pub struct Tls {
    /// The certificate and what it was issued by, in PEM.
    pub cert: PathBuf,
    /// The certificate's private key, in PEM.
    pub key: PathBuf,
    /// The authorities whose client certificates are believed, in PEM; none: clients are asked for none.
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is turned away before it says a word.
    pub require_client: bool,
    /// `[[tls.client]]`
    pub clients: Vec<TlsClient>,
}

/// `[[tls.client]]`: a certificate that is a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsClient {
    /// What its certificate names, as a URI or DNS subject alternative name.
    pub san: String,
    /// What it may do.
    pub role: TlsRole,
    /// The keyspaces that a verifier is limited to; empty: all.
    pub keyspaces: Vec<String>,
}

/// What a client certificate makes of its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsRole {
    /// A service, which verifies.
    Verify,
    /// An operator.
    Root,
}

/// Characters in a name.
const LONGEST: usize = 120;

/// Reads the section; none without a certificate.
pub fn read(section: &Section<'_>, source: &Source<'_>, keyspaces: &[&str]) -> Option<Tls> {
    let path = |name, variable| {
        source.setting(section, name, variable, None, |text| {
            if text.is_empty() { Err("must name a file".to_owned()) } else { Ok(PathBuf::from(text)) }
        })
    };
    let cert = path("cert", "KEYWARD_TLS_CERT");
    let key = path("key", "KEYWARD_TLS_KEY");
    let client_ca = path("client_ca", "KEYWARD_TLS_CLIENT_CA");
    let require_client = section.flag("require_client").unwrap_or(false);
    let tables = section.sections("client");
    let clients: Vec<TlsClient> = tables.iter().filter_map(|table| client(table, keyspaces)).collect();
    for (at, (table, client)) in tables.iter().zip(&clients).enumerate() {
        if clients[..at].iter().any(|other| other.san.eq_ignore_ascii_case(&client.san)) {
            table.problem("san", "another client has it already");
        }
    }
    if client_ca.is_none() {
        if !tables.is_empty() {
            section.problem("client", "needs client_ca: without it no client certificate is believed");
        }
        if require_client {
            section.problem("require_client", "needs client_ca");
        }
    }
    match (cert, key) {
        (Some(cert), Some(key)) => Some(Tls { cert, key, client_ca, require_client, clients }),
        (Some(_), None) => {
            section.problem("", "key is missing: the private key of the certificate");
            None
        }
        (None, Some(_)) => {
            section.problem("", "cert is missing: the certificate of the private key");
            None
        }
        (None, None) => {
            if client_ca.is_some() {
                section.problem("", "cert and key are missing: client_ca alone makes no TLS");
            }
            None
        }
    }
}

fn client(table: &Section<'_>, keyspaces: &[&str]) -> Option<TlsClient> {
    let san = table.text("san").map(|found| found.value);
    let role = table.text("role").map(|found| found.value);
    for (name, found) in [("san", &san), ("role", &role)] {
        if found.is_none() && table.is_table(name).is_none() {
            table.problem("", format_args!("{name} is missing"));
        }
    }
    let san = san.filter(|san| {
        // With what is put before it, it has to fit where callers are recorded and listed by.
        if san.len() > LONGEST {
            table.problem("san", format_args!("must be at most {LONGEST} characters"));
            return false;
        }
        let good = if san.contains(':') { is_uri(san) } else { is_dns(san) };
        if !good {
            table.problem("san", "must be a URI such as spiffe://example.org/gateway, or a DNS name");
        }
        good
    });
    let role = match role.as_deref() {
        None => None,
        Some("verify") => Some(TlsRole::Verify),
        Some("root") => Some(TlsRole::Root),
        Some(_) => {
            table.problem("role", "must be \"verify\" or \"root\"");
            None
        }
    };
    let limits = table.texts("keyspaces");
    if let Some(limits) = &limits {
        if limits.is_empty() {
            table.problem("keyspaces", "must not be empty; leave it out for all");
        }
        if role == Some(TlsRole::Root) {
            table.problem("keyspaces", "cannot go with the role \"root\", which nothing limits");
        }
        for name in limits.iter().filter(|name| !keyspaces.contains(&name.as_str())) {
            table.problem("keyspaces", format_args!("there is no keyspace \"{name}\""));
        }
    }
    Some(TlsClient { san: san?, role: role?, keyspaces: limits.unwrap_or_default() })
}

fn is_uri(text: &str) -> bool {
    text.is_ascii() && url::Url::parse(text).is_ok() && !text.contains(char::is_whitespace)
}

fn is_dns(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
    };
    text.split('.').all(label)
}
