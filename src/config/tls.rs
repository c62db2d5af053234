//! `[tls]`: certificates of both listeners, and the client certificates that identify callers.

use std::path::PathBuf;

use super::{
    section::Section,
    setting::{Setting, Table},
};

/// The table.
pub const TABLE: Table = Table {
    name: "tls",
    list: false,
    help: "TLS on both listeners. Without `tls.cert` and `tls.key` they speak plain text.",
    settings: &[CERT, KEY, CLIENT_CA, REQUIRE_CLIENT],
    tables: &[CLIENT],
};

const CLIENT: Table = Table {
    name: "client",
    list: true,
    help: "A client certificate that identifies a caller (needs `tls.client_ca`).",
    settings: &[SAN, ROLE, KEYSPACES],
    tables: &[],
};

const CERT: Setting = Setting::unset("cert", "", "\"/etc/keyward/tls.crt\"", "The certificate with its chain, in PEM.")
    .variable("KEYWARD_TLS_CERT");

const KEY: Setting =
    Setting::unset("key", "", "\"/etc/keyward/tls.key\"", "The private key of the certificate, in PEM.")
        .variable("KEYWARD_TLS_KEY");

const CLIENT_CA: Setting = Setting::unset(
    "client_ca",
    "no client certificates",
    "\"/etc/keyward/clients.pem\"",
    "The authorities whose client certificates are trusted, in PEM.",
)
.variable("KEYWARD_TLS_CLIENT_CA");

const REQUIRE_CLIENT: Setting =
    Setting::new("require_client", "false", "Whether clients without a trusted certificate are rejected.");

const SAN: Setting = Setting::required(
    "san",
    "\"spiffe://example.org/gateway\"",
    "A subject alternative name of the certificate: a URI or a DNS name.",
);

const ROLE: Setting =
    Setting::required("role", "\"verify\"", "What the caller may do: `verify` (a service) or `root` (an operator).");

const KEYSPACES: Setting = Setting::unset(
    "keyspaces",
    "all keyspaces",
    "[\"default\"]",
    "The keyspaces that a caller with the role `verify` is limited to.",
);

/// `[tls]`
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// The certificate and its chain, in PEM.
    pub cert: PathBuf,
    /// The certificate's private key, in PEM.
    pub key: PathBuf,
    /// The authorities whose client certificates are trusted, in PEM. Without it no client certificate is requested.
    pub client_ca: Option<PathBuf>,
    /// Whether the handshake fails for a client without a trusted certificate.
    pub require_client: bool,
    /// `[[tls.client]]`
    pub clients: Vec<TlsClient>,
}

/// `[[tls.client]]`: a client certificate that identifies a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsClient {
    /// A URI or DNS subject alternative name of the certificate.
    pub san: String,
    /// What the caller may do.
    pub role: TlsRole,
    /// The keyspaces that a verifier is limited to; empty: all.
    pub keyspaces: Vec<String>,
}

/// The role of a caller that a client certificate identifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsRole {
    /// A service, which verifies.
    Verify,
    /// An operator.
    Root,
}

/// Longest subject alternative name. With the prefix `san:` it has to fit into the fields that record callers and into
/// the filter that lists by them.
const MAX_SAN_LEN: usize = 120;

/// Reads the table; none without a certificate and its key. `keyspaces` are the names of all keyspaces.
pub fn read(section: &Section<'_>, keyspaces: &[&str]) -> Option<TlsSettings> {
    let path = |setting| {
        section.parsed(setting, |text| {
            if text.is_empty() { Err("must name a file".to_owned()) } else { Ok(PathBuf::from(text)) }
        })
    };
    let (cert, key, client_ca) = (path(&CERT), path(&KEY), path(&CLIENT_CA));
    let require_client = section.boolean(&REQUIRE_CLIENT) == Some(true);
    let tables = section.list(&CLIENT);
    let clients: Vec<TlsClient> = tables.iter().filter_map(|table| client(table, keyspaces)).collect();
    for (at, (table, client)) in tables.iter().zip(&clients).enumerate() {
        if clients[..at].iter().any(|other| other.san.eq_ignore_ascii_case(&client.san)) {
            table.problem(SAN.name, "another client has it already");
        }
    }
    if client_ca.is_none() {
        if !tables.is_empty() {
            section.problem(CLIENT.name, "needs client_ca: without it no client certificate is believed");
        }
        if require_client {
            section.problem(REQUIRE_CLIENT.name, "needs client_ca");
        }
    }
    match (cert, key) {
        (Some(cert), Some(key)) => Some(TlsSettings { cert, key, client_ca, require_client, clients }),
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
    let san = table.text(&SAN);
    let role = table.text(&ROLE);
    for setting in [SAN, ROLE] {
        if !table.has(setting.name) {
            table.problem("", format_args!("{} is missing", setting.name));
        }
    }
    let san = san.filter(|san| {
        if san.len() > MAX_SAN_LEN {
            table.problem(SAN.name, format_args!("must be at most {MAX_SAN_LEN} characters"));
            return false;
        }
        let is_valid = if san.contains(':') { is_uri(san) } else { is_dns(san) };
        if !is_valid {
            table.problem(SAN.name, "must be a URI such as spiffe://example.org/gateway, or a DNS name");
        }
        is_valid
    });
    let role = match role.as_deref() {
        None => None,
        Some("verify") => Some(TlsRole::Verify),
        Some("root") => Some(TlsRole::Root),
        Some(_) => {
            table.problem(ROLE.name, "must be \"verify\" or \"root\"");
            None
        }
    };
    let allowed = table.texts(&KEYSPACES);
    if let Some(allowed) = &allowed {
        if allowed.is_empty() {
            table.problem(KEYSPACES.name, "must not be empty; leave it out for all");
        }
        if role == Some(TlsRole::Root) {
            table.problem(KEYSPACES.name, "cannot go with the role \"root\", which nothing limits");
        }
        for name in allowed.iter().filter(|name| !keyspaces.contains(&name.as_str())) {
            table.problem(KEYSPACES.name, format_args!("there is no keyspace \"{name}\""));
        }
    }
    Some(TlsClient { san: san?, role: role?, keyspaces: allowed.unwrap_or_default() })
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
