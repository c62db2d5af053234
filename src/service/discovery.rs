//! Discovery for command lines, before anybody has signed in. It needs no credential.

use super::Services;
use crate::domain::{key::Binding, oidc::CliClient};

/// What a command line has to know.
pub(crate) struct Discovery<'a> {
    /// What the installation is for: the only keyspace, or the program's own name.
    pub(crate) name: &'a str,
    /// Where people sign in.
    pub(crate) sign_in: Option<SignIn<'a>>,
    /// The configured keyspaces.
    pub(crate) keyspaces: Vec<Offered<'a>>,
}

/// How people sign in from a command line.
pub(crate) struct SignIn<'a> {
    /// The issuer's identifier.
    pub(crate) issuer: &'a str,
    /// The client to sign in with.
    pub(crate) client: &'a CliClient,
    /// Whether the issuer offers the device flow (RFC 8628); `None` while that is not known.
    pub(crate) device_flow: Option<bool>,
}

/// A keyspace as it is offered.
pub(crate) struct Offered<'a> {
    pub(crate) name: &'a str,
    /// The scopes that its keys can have; `None` if they are free-form.
    pub(crate) scopes: Option<&'a [String]>,
    /// The parts of the binding that a key needs.
    pub(crate) requires: Vec<&'static str>,
}

impl Services {
    /// The answer of discovery. Of several issuers with a client for command lines, the first one counts.
    pub(crate) fn discovery(&self) -> Discovery<'_> {
        let sign_in = self.auth.cli_sign_in();
        let configured = self.registry.configured();
        Discovery {
            name: if let [only] = configured { &only.name } else { "keyward" },
            sign_in: sign_in.map(|(issuer, client, device_flow)| SignIn { issuer, client, device_flow }),
            keyspaces: configured
                .iter()
                .map(|keyspace| Offered {
                    name: &keyspace.name,
                    scopes: keyspace.scopes.as_deref(),
                    requires: keyspace.require.missing(&Binding::default()).collect(),
                })
                .collect(),
        }
    }
}
