//! Authorities, certificates, and the clients that people have: curl and grpcurl.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::Value;

use super::server::{Server, Setup};

/// An authority, which keeps its files in a folder.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub cert: PathBuf,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// An authority whose files have this name.
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let cert = folder.join(format!("{name}.pem"));
        std::fs::write(&cert, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder: folder.to_owned(), issuer: Issuer::new(params, key), cert }
    }

    fn issue(&self, name: &str, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Identity {
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let identity =
            Identity { cert: self.folder.join(format!("{name}.crt")), key: self.folder.join(format!("{name}.key")) };
        private(&identity.cert, &cert.pem());
        private(&identity.key, &key.serialize_pem());
        identity
    }

    /// A server's certificate for 127.0.0.1 and localhost.
    pub fn server(&self, name: &str) -> Identity {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::from([127, 0, 0, 1])));
        self.issue(name, params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's certificate with these names; one with a colon is a URI.
    pub fn client(&self, name: &str, sans: &[&str]) -> Identity {
        self.issue(name, client(sans), ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A client's certificate with one URI as its name, whatever the text looks like.
    pub fn client_of_uri(&self, name: &str, uri: &str) -> Identity {
        let mut params = client(&[]);
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        self.issue(name, params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// The same, of a time that is over.
    pub fn expired_client(&self, name: &str, sans: &[&str]) -> Identity {
        let mut params = client(sans);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        self.issue(name, params, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

fn client(sans: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = sans
        .iter()
        .map(|san| {
            let text = (*san).try_into().unwrap();
            if san.contains(':') { SanType::URI(text) } else { SanType::DnsName(text) }
        })
        .collect();
    params
}

/// The `[tls]` table of a server.
pub fn table(server: &Identity, client_ca: Option<&Path>) -> String {
    let ca = client_ca.map(|ca| format!("client_ca = \"{}\"\n", ca.display())).unwrap_or_default();
    format!("[tls]\ncert = \"{}\"\nkey = \"{}\"\n{ca}", server.cert.display(), server.key.display())
}

/// A client: whom it believes, and who it is.
#[derive(Debug, Clone, Copy)]
pub struct As<'a> {
    pub ca: &'a Path,
    pub identity: Option<&'a Identity>,
    pub bearer: Option<&'a str>,
}

/// What curl got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Curled {
    /// 0 if there was no answer.
    pub status: u16,
    pub version: String,
    pub body: String,
    /// What curl said of a failure.
    pub error: String,
}

impl Curled {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

impl As<'_> {
    /// Calls REST by curl; a body makes it a POST.
    pub fn curl(&self, server: &Server, path: &str, body: Option<&Value>, extra: &[&str]) -> Curled {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "20", "--cacert"]).arg(self.ca);
        command.args(["-w", "\n%{http_code} %{http_version}"]);
        if let Some(identity) = self.identity {
            command.arg("--cert").arg(&identity.cert).arg("--key").arg(&identity.key);
        }
        if let Some(bearer) = self.bearer {
            command.arg("-H").arg(format!("authorization: Bearer {bearer}"));
        }
        if let Some(body) = body {
            command.args(["-H", "content-type: application/json", "-d", &body.to_string()]);
        }
        let output = command.args(extra).arg(format!("https://{}{path}", server.http)).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, last) = text.rsplit_once('\n').unwrap();
        let (status, version) = last.split_once(' ').unwrap();
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Curled { status: status.parse().unwrap(), version: version.to_owned(), body: body.to_owned(), error }
    }

    /// Calls gRPC by grpcurl; whether that went well, and what it said.
    pub fn grpcurl(&self, server: &Server, call: &str, message: &Value) -> (bool, String) {
        self.grpcurl_with(server, call, message, &[])
    }

    /// The same with more options.
    pub fn grpcurl_with(&self, server: &Server, call: &str, message: &Value, extra: &[&str]) -> (bool, String) {
        let program = std::env::var("KEYWARD_TEST_GRPCURL")
            .expect("KEYWARD_TEST_GRPCURL is not set: run the tests with tests/run, which installs grpcurl");
        let mut command = Command::new(program);
        command.args(["-max-time", "20", "-cacert"]).arg(self.ca);
        if let Some(identity) = self.identity {
            command.arg("-cert").arg(&identity.cert).arg("-key").arg(&identity.key);
        }
        if let Some(bearer) = self.bearer {
            command.arg("-H").arg(format!("authorization: Bearer {bearer}"));
        }
        command.args(extra).args(["-d", &message.to_string()]).arg(&server.grpc);
        let Output { status, stdout, stderr } = command.arg(format!("keyward.v1.KeyService/{call}")).output().unwrap();
        (status.success(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
    }

    /// The answer to a call that goes well.
    #[track_caller]
    pub fn call(&self, server: &Server, call: &str, message: &Value) -> Value {
        let (good, text) = self.grpcurl(server, call, message);
        assert!(good, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

/// Starts a server with TLS.
pub fn start(table: &str) -> Server {
    Setup::new().config(table).start()
}

/// Writes a file that its owner alone may read, as a private key should be: the check warns of others.
fn private(path: &Path, text: &str) {
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create(true).truncate(true), 0o600);
    std::io::Write::write_all(&mut options.open(path).unwrap(), text.as_bytes()).unwrap();
}
