//! TLS connections: rustls with aws-lc, HTTP/2 only.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};
use tower_service::Service;
use zeroize::Zeroizing;

use crate::error::BuildError;

const HTTP_2: &[u8] = b"h2";

/// The trusted certificate authorities, and the client's own certificate. Everything is PEM.
#[derive(Clone)]
pub struct Tls {
    /// The authorities; none: those of the operating system.
    authorities: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    server_name: Option<String>,
}

impl Tls {
    /// Trusts the authorities that the operating system trusts.
    pub fn native_roots() -> Self {
        Self { authorities: None, identity: None, server_name: None }
    }

    /// Trusts these authorities, and no others.
    pub fn authority(pem: impl Into<Vec<u8>>) -> Self {
        Self { authorities: Some(pem.into()), ..Self::native_roots() }
    }

    /// Presents this certificate and proves it with this key.
    #[must_use]
    pub fn identity(self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self { identity: Some((certificate.into(), Zeroizing::new(key.into()))), ..self }
    }

    /// The name that the server's certificate must have, if it is not the URL's host.
    #[must_use]
    pub fn server_name(self, name: impl Into<String>) -> Self {
        Self { server_name: Some(name.into()), ..self }
    }

    /// Connects to the host of a URL in this way.
    pub(crate) fn connector(&self, url: &Uri) -> Result<Connector, BuildError> {
        let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = self.server_name.clone().unwrap_or_else(|| host.clone());
        let name = ServerName::try_from(name).map_err(|_| BuildError::new("tls", "the server's name is not a host"))?;
        let config = Arc::new(self.config()?);
        Ok(Connector { tls: TlsConnector::from(config), name, host, port: url.port_u16().unwrap_or(443) })
    }

    fn config(&self) -> Result<ClientConfig, BuildError> {
        let bad = |why| move |_| BuildError::new("tls", why);
        let mut roots = RootCertStore::empty();
        let authorities = match &self.authorities {
            Some(pem) => certificates(pem)?,
            // Authorities that cannot be read are skipped. If none is left, no server is trusted.
            None => rustls_native_certs::load_native_certs().certs,
        };
        roots.add_parsable_certificates(authorities);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(bad("no version of the protocol is supported"))?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                let key =
                    PrivateKeyDer::from_pem_slice(key).map_err(|_| BuildError::new("tls", "the key is not PEM"))?;
                let chain = certificates(chain)?;
                config.with_client_auth_cert(chain, key).map_err(bad("the key is not that of the certificate"))?
            }
        };
        config.alpn_protocols = vec![HTTP_2.to_vec()];
        Ok(config)
    }
}

/// The certificates in a text; at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| BuildError::new("tls", "a certificate is not PEM"))
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(…)")
    }
}

/// Connects to one host.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: TlsConnector,
    name: ServerName<'static>,
    host: String,
    port: u16,
}

impl Connector {
    async fn connect(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let stream = TcpStream::connect((self.host, self.port)).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(self.name, stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(HTTP_2) {
            return Err(io::Error::other("the server does not speak HTTP/2"));
        }
        Ok(TokioIo::new(stream))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}
