//! Certificates and keys from files.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::rustls::{
    Error, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use zeroize::Zeroizing;

use crate::config::Tls;

/// A certificate, a chain, a key or a bundle of authorities is far smaller.
const LARGEST: u64 = 4 << 20;

/// What tells a file from what it was before: which one it is, how long, and when it was last changed. None if there is
/// no such file.
pub type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// The stamps of every file. A link is followed: what it points at may be exchanged.
pub fn stamps(config: &Tls) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        Some((found.dev(), found.ino(), found.len(), found.ctime(), found.ctime_nsec()))
    };
    [Some(&config.cert), Some(&config.key), config.client_ca.as_ref()].into_iter().flatten().map(stamp).collect()
}

/// A server's TLS as the files say.
///
/// # Errors
///
/// Every problem, each with its setting. Nothing of what the files hold is repeated.
pub fn server(config: &Tls) -> Result<ServerConfig, Vec<String>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut problems = Vec::new();
    let mut noted = |setting: &str, path: &Path, what: &str| {
        problems.push(format!("tls.{setting}: {}: {what}", path.display()));
    };
    let cert = certificates(&config.cert).map_err(|what| noted("cert", &config.cert, &what)).ok();
    let key = private_key(&config.key).map_err(|what| noted("key", &config.key, &what)).ok();
    let verifier = match &config.client_ca {
        None => Some(None),
        Some(path) => {
            let verifier = verifier(path, config.require_client, &provider);
            verifier.map_err(|what| noted("client_ca", path, &what)).ok().map(Some)
        }
    };
    let (Some(cert), Some(key), Some(verifier)) = (cert, key, verifier) else { return Err(problems) };
    let pair = |what: &str| vec![format!("tls.cert: {}: {what}", config.cert.display())];
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| pair(&error.to_string()))?;
    let builder = match &verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
    };
    let mut server = builder.with_single_cert(cert, key).map_err(|error| match error {
        Error::InconsistentKeys(_) => pair("is not of the private key in tls.key"),
        other => pair(&format!("cannot be used: {other}")),
    })?;
    if verifier.is_some() {
        // A resumed session would go on with a client certificate that is not looked at again.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    }
    Ok(server)
}

fn verifier(
    path: &Path,
    required: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| format!("holds what is no authority: {error}"))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| error.to_string())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| "holds no certificate in PEM".to_owned())
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    // The parser's own words could repeat a line of the key.
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| "holds no private key in PEM".to_owned())
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let found = fs::metadata(path).map_err(|error| error.to_string())?;
    // A pipe or a device might never end.
    if !found.is_file() || found.len() > LARGEST {
        return Err("is no file of at most 4 MiB".to_owned());
    }
    fs::read(path).map(Zeroizing::new).map_err(|error| error.to_string())
}
