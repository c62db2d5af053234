//! The certificate authorities that a receiver's certificate may come from.

use std::sync::Arc;

use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs},
};

/// Trusts the operating system's authorities, with those that the operator added (`SSL_CERT_FILE` names another file).
/// Where there are none, as in a container that holds only the program, the built-in list of Mozilla is trusted.
#[expect(clippy::expect_used, reason = "the versions are constants, so every test of the client would fail first")]
pub fn connector() -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}
