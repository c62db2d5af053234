//! Reads certificates and keys from files.

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

use crate::config::TlsSettings;

/// The largest file that is read. A certificate chain, a key or a bundle of authorities is far smaller.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Identifies one state of a file: device, inode, length and time of the last change. None if the file does not exist.
pub(crate) type FileStamp = Option<(u64, u64, u64, i64, i64)>;

/// The stamps of all files of the configuration. Links are followed, because their target may be replaced.
pub(crate) fn stamps(config: &TlsSettings) -> Vec<FileStamp> {
    let stamp = |path: &PathBuf| {
        let file = fs::metadata(path).ok()?;
        Some((file.dev(), file.ino(), file.len(), file.ctime(), file.ctime_nsec()))
    };
    [Some(&config.cert), Some(&config.key), config.client_ca.as_ref()].into_iter().flatten().map(stamp).collect()
}

/// The private key's file, if others than its owner and its group may read it.
pub(crate) fn exposed_key(config: &TlsSettings) -> Option<&Path> {
    let mode = fs::metadata(&config.key).ok()?.mode();
    (mode & 0o007 != 0).then_some(config.key.as_path())
}

/// Reads the files into a server configuration.
///
/// # Errors
///
/// Every problem, with the setting that names the file. The text never repeats what a file contains.
pub(crate) fn server_config(config: &TlsSettings) -> Result<ServerConfig, Vec<String>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut problems = Vec::new();
    let mut report = |setting: &str, path: &Path, problem: &str| {
        problems.push(format!("tls.{setting}: {}: {problem}", path.display()));
    };
    let cert = certificates(&config.cert).map_err(|problem| report("cert", &config.cert, &problem)).ok();
    let key = private_key(&config.key).map_err(|problem| report("key", &config.key, &problem)).ok();
    let verifier = match &config.client_ca {
        None => Some(None),
        Some(path) => {
            let verifier = verifier(path, config.require_client, &provider);
            verifier.map_err(|problem| report("client_ca", path, &problem)).ok().map(Some)
        }
    };
    let (Some(cert), Some(key), Some(verifier)) = (cert, key, verifier) else { return Err(problems) };
    let cert_problem = |problem: &str| vec![format!("tls.cert: {}: {problem}", config.cert.display())];
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| cert_problem(&error.to_string()))?;
    let builder = match &verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
    };
    let mut server = builder.with_single_cert(cert, key).map_err(|error| match error {
        Error::InconsistentKeys(_) => cert_problem("is not of the private key in tls.key"),
        other => cert_problem(&format!("cannot be used: {other}")),
    })?;
    if verifier.is_some() {
        // A resumed session skips the verification of the client certificate, which may have expired meanwhile.
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
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    certificates
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or_else(|| "holds no certificate in PEM".to_owned())
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    // The text of the parser's error could repeat a line of the key.
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| "holds no private key in PEM".to_owned())
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = fs::metadata(path).map_err(|error| error.to_string())?;
    // Reading a pipe or a device might never end.
    if !file.is_file() || file.len() > MAX_FILE_BYTES {
        return Err("is no file of at most 4 MiB".to_owned());
    }
    let mut bytes = fs::read(path).map(Zeroizing::new).map_err(|error| error.to_string())?;
    // Some editors put a byte order mark before the text, where it would hide the first line.
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    Ok(bytes)
}
