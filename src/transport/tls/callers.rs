//! Which client certificate is which caller.

use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::{
    config::{TlsClient, TlsRole},
    domain::{
        caller::{AuthMethod, Caller},
        keyspace::Registry,
    },
};

/// The callers that are known by their certificate.
pub struct Callers(Vec<(Arc<str>, Caller)>);

impl Callers {
    /// As the configuration says.
    pub fn new(clients: &[TlsClient], registry: &Registry) -> Self {
        let caller = |client: &TlsClient| {
            let san: Arc<str> = client.san.as_str().into();
            let method = AuthMethod::Certificate(Arc::clone(&san));
            let caller = match client.role {
                TlsRole::Root => Caller::Operator { method },
                TlsRole::Verify => {
                    Caller::Service { method, allowed_keyspaces: registry.allowed_keyspaces(&client.keyspaces) }
                }
            };
            (san, caller)
        };
        Self(clients.iter().map(caller).collect())
    }

    /// The caller that a certificate makes of its holder, whose right to it the handshake has shown. Of several that fit,
    /// the first one in the configuration.
    pub fn of(&self, certificate: &CertificateDer<'_>) -> Option<Caller> {
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        let named = |san: &str| {
            // A URI is compared as it is written, as SPIFFE has it; a DNS name has no case.
            certificate.valid_uri_names().any(|uri| uri == san)
                || certificate.valid_dns_names().any(|dns| dns.eq_ignore_ascii_case(san))
        };
        self.0.iter().find(|(san, _)| named(san)).map(|(_, caller)| caller.clone())
    }
}
