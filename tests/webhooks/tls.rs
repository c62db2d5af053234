//! Receivers over TLS: which certificates are trusted.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

use super::{
    fixture::{hooked, local, settled},
    receiver::Receiver,
};
use crate::support::{Server, Setup};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A receiver with a certificate for `name`.
async fn receiver(authority: &Authority, name: &str) -> Receiver {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(certificate)], key)
        .unwrap();
    Receiver::over_tls(config).await
}

/// A server that trusts this authority, and requires https, which is the default.
fn server(trusted: &Authority) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("roots.pem");
    std::fs::write(&file, trusted.pem()).unwrap();
    let settings = local("[]").replace("allow_http = true\n", "").replace("0/8\"", "0/8\", \"::1\"");
    let setup = Setup::new().config(&settings).delivering().env("SSL_CERT_FILE", file.to_str().unwrap());
    (setup.start(), folder)
}

#[tokio::test]
async fn a_receiver_with_a_trusted_certificate_gets_its_deliveries() {
    let trusted = authority();
    let (server, _folder) = server(&trusted);
    for (name, host) in [("localhost", "localhost"), ("127.0.0.1", "127.0.0.1")] {
        let receiver = receiver(&trusted, name).await;
        let key = hooked(&server, &format!("https://{host}:{}/x", receiver.port())).await;
        let delivery = receiver.wait_for(1).await.remove(0);
        assert!(delivery.is_by(&key.secret));
        assert_eq!(delivery.header("host"), format!("{host}:{}", receiver.port()));
    }
}

#[tokio::test]
async fn a_receiver_with_another_certificate_gets_nothing() {
    let trusted = authority();
    for (signer, name, why) in
        [(&trusted, "example.com", "not valid for name"), (&authority(), "localhost", "invalid peer certificate")]
    {
        let (server, _folder) = server(&trusted);
        let receiver = receiver(signer, name).await;
        hooked(&server, &format!("https://localhost:{}/", receiver.port())).await;
        let row = settled(&server, "failed").await;
        assert!(row.last_error.starts_with("TLS failed: ") && row.last_error.contains(why), "{row:?}");
        assert!(receiver.requests().is_empty());
    }
}
