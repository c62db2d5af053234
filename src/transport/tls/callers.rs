//! Maps client certificates to callers.

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

/// The callers that are configured by a name in their certificate.
pub(crate) struct CertificateCallers(Vec<(Arc<str>, Caller)>);

impl CertificateCallers {
    /// The callers of the configuration.
    pub(crate) fn new(clients: &[TlsClient], registry: &Registry) -> Self {
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

    /// The caller that a certificate identifies. The handshake has verified the certificate. If several callers match, the
    /// first one in the configuration is returned.
    pub(crate) fn find(&self, certificate: &CertificateDer<'_>) -> Option<Caller> {
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        let has_name = |san: &str| {
            // URIs are compared exactly, as SPIFFE requires. DNS names are case-insensitive. Only a URI has a colon: a
            // URI of the certificate without a scheme must not pass for a DNS name.
            if san.contains(':') {
                certificate.valid_uri_names().any(|uri| uri == san)
            } else {
                certificate.valid_dns_names().any(|dns| dns.eq_ignore_ascii_case(san))
            }
        };
        self.0.iter().find(|(san, _)| has_name(san)).map(|(_, caller)| caller.clone())
    }
}
