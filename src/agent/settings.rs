//! What an agent can be told: flags go before `KEYWARD_AGENT_*` variables. Every problem is reported at once.

use std::{collections::HashMap, fmt, fs, net::SocketAddr, path::PathBuf};

use keyward_client::{AttachOptions, Client, ClientBuilder, Tls};
use url::{Host, Url};

use crate::{
    config::{self, size},
    domain::secret::Secret,
    service::gateway::GatewayConfig,
};

/// A setting, as the documents list it.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The flag; none for what must not be an argument.
    pub flag: Option<&'static str>,
    /// The environment variable.
    pub variable: &'static str,
    /// What holds where it is absent, in words.
    pub default: &'static str,
}

const UPSTREAM: Setting = Setting::new("--upstream", "KEYWARD_AGENT_UPSTREAM", "required");
const LISTEN: Setting = Setting::new("--listen", "KEYWARD_AGENT_LISTEN", "unix:/run/keyward.sock");
const HTTP_LISTEN: Setting = Setting::new("--http-listen", "KEYWARD_AGENT_HTTP_LISTEN", "none");
const SOCKET_MODE: Setting = Setting::new("--socket-mode", "KEYWARD_AGENT_SOCKET_MODE", "0600");
const SOCKET_AUTH: Setting = Setting::new("--socket-auth", "KEYWARD_AGENT_SOCKET_AUTH", "credential");
const METRICS_ADDR: Setting = Setting::new("--metrics-addr", "KEYWARD_AGENT_METRICS_ADDR", "none");
const CREDENTIAL_FILE: Setting = Setting::new("--credential-file", "KEYWARD_AGENT_CREDENTIAL_FILE", "none");
const CREDENTIAL: Setting = Setting { flag: None, ..Setting::new("", "KEYWARD_AGENT_CREDENTIAL", "KEYWARD_API_KEY") };
const UPSTREAM_CA: Setting = Setting::new("--upstream-ca", "KEYWARD_AGENT_UPSTREAM_CA", "the operating system's");
const UPSTREAM_CERT: Setting = Setting::new("--upstream-cert", "KEYWARD_AGENT_UPSTREAM_CERT", "none");
const UPSTREAM_KEY: Setting = Setting::new("--upstream-key", "KEYWARD_AGENT_UPSTREAM_KEY", "none");
const MEMORY: Setting = Setting::new("--memory", "KEYWARD_AGENT_MEMORY", "64MiB");
const CONFIG: Setting = Setting::new("--config", "KEYWARD_CONFIG", "none");
const INSECURE: Setting = Setting::new("--insecure", "KEYWARD_AGENT_INSECURE", "false");

/// Every setting.
pub const SETTINGS: [Setting; 14] = [
    UPSTREAM,
    LISTEN,
    HTTP_LISTEN,
    SOCKET_MODE,
    SOCKET_AUTH,
    METRICS_ADDR,
    CREDENTIAL,
    CREDENTIAL_FILE,
    UPSTREAM_CA,
    UPSTREAM_CERT,
    UPSTREAM_KEY,
    MEMORY,
    CONFIG,
    INSECURE,
];

/// The variable of the command line's own credential, which serves here, too.
const API_KEY: &str = "KEYWARD_API_KEY";
/// Sockets that one agent listens on.
const MAX_LISTENERS: usize = 16;
/// Bytes of memory for keys.
const MEMORY_BOUNDS: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 40;
/// The largest file that is read: a chain of certificates is far smaller.
const MAX_FILE_BYTES: u64 = 1 << 20;

impl Setting {
    const fn new(flag: &'static str, variable: &'static str, default: &'static str) -> Self {
        Self { flag: Some(flag), variable, default }
    }
}

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// Addresses of replicas.
    pub upstream: Vec<String>,
    /// Where to listen.
    pub listen: Vec<String>,
    /// Where to listen for gateways that ask over HTTP.
    pub http_listen: Vec<String>,
    /// The mode of the files of Unix sockets.
    pub socket_mode: Option<String>,
    /// What authenticates callers of Unix sockets.
    pub socket_auth: Option<String>,
    /// Where metrics are served.
    pub metrics_addr: Option<String>,
    /// The file with the agent's own credential.
    pub credential_file: Option<PathBuf>,
    /// The authorities that replicas' certificates are signed by.
    pub upstream_ca: Option<PathBuf>,
    /// The agent's own certificate.
    pub upstream_cert: Option<PathBuf>,
    /// Its key.
    pub upstream_key: Option<PathBuf>,
    /// Memory for keys.
    pub memory: Option<String>,
    /// The replicas' own configuration file, for gateways.
    pub config: Option<PathBuf>,
    /// Whether replicas beyond this machine may be spoken to in plain text.
    pub insecure: bool,
}

/// Where an agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Listen {
    /// A Unix socket.
    Unix(PathBuf),
    /// A loopback address.
    Loopback(SocketAddr),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Loopback(address) => address.fmt(f),
        }
    }
}

/// What authenticates callers of Unix sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SocketAuth {
    /// Their own credential, as at a replica.
    Credential,
    /// The mode of the socket's file: a caller without a credential calls with the agent's own.
    FileMode,
}

/// What an agent runs with.
pub struct Settings {
    pub(super) upstream: Vec<String>,
    pub(super) listen: Vec<Listen>,
    pub(super) http_listen: Vec<Listen>,
    pub(super) socket_mode: u32,
    pub(super) socket_auth: SocketAuth,
    pub(super) metrics_addr: Option<SocketAddr>,
    /// None: the certificate identifies the agent.
    pub(super) credential: Option<Secret>,
    tls: Option<Tls>,
    pub(super) attach: AttachOptions,
    /// None: Check is a call.
    pub(super) gateway_config: Option<GatewayConfig>,
}

impl Settings {
    /// Reads flags and environment. A variable of `environment` must not be empty.
    ///
    /// # Errors
    ///
    /// Every problem, each with the names of its setting.
    pub fn read(flags: &Flags, environment: &HashMap<String, String>) -> Result<Self, Vec<String>> {
        let mut reader = Reader { environment, problems: Vec::new() };
        let insecure = flags.insecure || reader.switch(&INSECURE);
        let upstream = reader.list(&UPSTREAM, &flags.upstream, 64);
        if upstream.is_empty() {
            reader.problem(&UPSTREAM, "is required: the address of a replica, such as https://keyward.internal:50051");
        }
        for url in &upstream {
            if !insecure && !is_private(url) {
                reader.problem(&UPSTREAM, "is plain text beyond this machine: use https, or --insecure");
            }
        }
        let mut listen = reader.list(&LISTEN, &flags.listen, MAX_LISTENERS);
        if listen.is_empty() {
            listen.push(LISTEN.default.to_owned());
        }
        let listen = listen.iter().filter_map(|text| reader.parsed(&LISTEN, listen_on(text))).collect();
        let http_listen = reader.list(&HTTP_LISTEN, &flags.http_listen, MAX_LISTENERS);
        let http_listen = http_listen.iter().filter_map(|text| reader.parsed(&HTTP_LISTEN, listen_on(text))).collect();
        let mode = reader.one(&SOCKET_MODE, flags.socket_mode.as_ref());
        let mode = mode.unwrap_or_else(|| SOCKET_MODE.default.to_owned());
        let socket_mode = reader.parsed(&SOCKET_MODE, file_mode(&mode));
        let auth = reader.one(&SOCKET_AUTH, flags.socket_auth.as_ref());
        let socket_auth = reader.parsed(&SOCKET_AUTH, socket_auth(auth.as_deref().unwrap_or(SOCKET_AUTH.default)));
        let metrics_addr = reader.one(&METRICS_ADDR, flags.metrics_addr.as_ref()).and_then(|text| {
            reader.parsed(&METRICS_ADDR, text.parse().map_err(|_| "must be an address and a port".to_owned()))
        });
        let memory = reader.one(&MEMORY, flags.memory.as_ref()).unwrap_or_else(|| MEMORY.default.to_owned());
        let memory = size::bytes(&memory, MEMORY_BOUNDS, "must be a size from 1MiB to 1024GiB");
        let memory = reader.parsed(&MEMORY, memory).and_then(|bytes| usize::try_from(bytes).ok());
        let (credential, tls) = (reader.credential(flags), reader.tls(flags));
        if credential.is_none()
            && flags.upstream_cert.is_none()
            && !reader.environment.contains_key(UPSTREAM_CERT.variable)
        {
            reader.problem(
                &CREDENTIAL,
                "is required: a service key (kw_…) with the scope `verify`, here, in KEYWARD_API_KEY, or in the file \
                 that --credential-file names; or a certificate (--upstream-cert)",
            );
        }
        let gateway_config = reader.gateway_config(flags);
        match (reader.problems.is_empty(), socket_mode, socket_auth, memory) {
            (true, Some(socket_mode), Some(socket_auth), Some(memory)) => {
                let attach = AttachOptions::default().bytes(memory);
                Ok(Self {
                    upstream,
                    listen,
                    http_listen,
                    socket_mode,
                    socket_auth,
                    metrics_addr,
                    credential,
                    tls,
                    attach,
                    gateway_config,
                })
            }
            _ => Err(reader.problems),
        }
    }

    /// A builder of clients of the replicas, which call without a credential.
    pub(super) fn client(&self) -> ClientBuilder {
        let mut urls = self.upstream.iter().cloned();
        let first = Client::builder(urls.next().unwrap_or_default());
        let builder = urls.fold(first, ClientBuilder::endpoint);
        match &self.tls {
            None => builder,
            Some(tls) => builder.tls(tls.clone()),
        }
    }
}

struct Reader<'a> {
    environment: &'a HashMap<String, String>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn problem(&mut self, setting: &Setting, why: &str) {
        let flag = setting.flag.map(|flag| format!("{flag} or ")).unwrap_or_default();
        self.problems.push(format!("{flag}{}: {why}", setting.variable));
    }

    fn parsed<T>(&mut self, setting: &Setting, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|why| self.problem(setting, &why)).ok()
    }

    fn one(&self, setting: &Setting, flag: Option<&String>) -> Option<String> {
        flag.or_else(|| self.environment.get(setting.variable)).cloned()
    }

    /// Flags that are given several times, or a variable with commas.
    fn list(&mut self, setting: &Setting, flags: &[String], max: usize) -> Vec<String> {
        let variable = || self.environment.get(setting.variable).map(String::as_str).unwrap_or_default();
        let list: Vec<String> = if flags.is_empty() {
            variable().split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
        } else {
            flags.to_vec()
        };
        if list.len() > max {
            self.problem(setting, &format!("must be at most {max}"));
        }
        list
    }

    fn switch(&mut self, setting: &Setting) -> bool {
        match self.environment.get(setting.variable).map(String::as_str) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                self.problem(setting, "must be true or false");
                false
            }
        }
    }

    fn file(&mut self, setting: &Setting, flag: Option<&PathBuf>) -> Option<Vec<u8>> {
        let path = flag.cloned().or_else(|| self.environment.get(setting.variable).map(PathBuf::from))?;
        let read = fs::metadata(&path).and_then(|found| {
            if found.len() > MAX_FILE_BYTES { Err(std::io::ErrorKind::FileTooLarge.into()) } else { fs::read(&path) }
        });
        self.parsed(setting, read.map_err(|error| format!("{}: {error}", path.display())))
    }

    fn credential(&mut self, flags: &Flags) -> Option<Secret> {
        let named = flags.credential_file.is_some() || self.environment.contains_key(CREDENTIAL_FILE.variable);
        let text = if named {
            let bytes = self.file(&CREDENTIAL_FILE, flags.credential_file.as_ref())?;
            let text = String::from_utf8(bytes).map_err(|_| "holds no text".to_owned());
            self.parsed(&CREDENTIAL_FILE, text)?.trim().to_owned()
        } else {
            self.environment.get(CREDENTIAL.variable).or_else(|| self.environment.get(API_KEY))?.clone()
        };
        let setting = if named { &CREDENTIAL_FILE } else { &CREDENTIAL };
        let visible = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let secret = if visible { Ok(Secret::new(text)) } else { Err("must be one line of visible ASCII".to_owned()) };
        self.parsed(setting, secret)
    }

    /// Keyspaces and routes of the replicas' own file.
    fn gateway_config(&mut self, flags: &Flags) -> Option<GatewayConfig> {
        // The listeners of the file are not this process's.
        let flags = config::Flags { config: flags.config.clone(), insecure: true, ..config::Flags::default() };
        config::file(&flags, self.environment)?;
        match config::load(&flags, self.environment) {
            Ok(config) => Some(GatewayConfig::new(config.registry, config.http.environment)),
            Err(problems) => {
                self.problems.extend(problems);
                None
            }
        }
    }

    fn tls(&mut self, flags: &Flags) -> Option<Tls> {
        let authority = self.file(&UPSTREAM_CA, flags.upstream_ca.as_ref());
        let certificate = self.file(&UPSTREAM_CERT, flags.upstream_cert.as_ref());
        let key = self.file(&UPSTREAM_KEY, flags.upstream_key.as_ref());
        if certificate.is_some() != key.is_some() {
            self.problem(&UPSTREAM_CERT, "and --upstream-key must be given together");
        }
        if authority.is_none() && certificate.is_none() {
            return None;
        }
        let tls = authority.map_or_else(Tls::native_roots, Tls::authority);
        Some(match certificate.zip(key) {
            None => tls,
            Some((certificate, key)) => tls.identity(certificate, key),
        })
    }
}

/// Whether what is sent to an address cannot be read on the way.
fn is_private(url: &str) -> bool {
    if url.starts_with("https://") || url.starts_with("unix:") {
        return true;
    }
    // What is no URL is refused when the client is built.
    let Ok(url) = Url::parse(url) else { return true };
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => true,
    }
}

fn listen_on(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = PathBuf::from(path);
        return if path.is_absolute() {
            Ok(Listen::Unix(path))
        } else {
            Err("unix: needs an absolute path".to_owned())
        };
    }
    let address = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    match address.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(Listen::Loopback(address)),
        Ok(_) => Err("must be a loopback address: the agent answers on its own host".to_owned()),
        Err(_) => Err("must be unix:/path or a loopback address and a port".to_owned()),
    }
}

fn file_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| mode & !0o777 == 0);
    mode.ok_or_else(|| "must be a file mode in octal, such as 0660".to_owned())
}

fn socket_auth(text: &str) -> Result<SocketAuth, String> {
    match text {
        "credential" => Ok(SocketAuth::Credential),
        "file-mode" => Ok(SocketAuth::FileMode),
        _ => Err("must be credential or file-mode".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn read(flags: &Flags, pairs: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
        Settings::read(flags, &environment(pairs))
    }

    const GOOD: [(&str, &str); 2] =
        [("KEYWARD_AGENT_UPSTREAM", "http://127.0.0.1:50051"), ("KEYWARD_AGENT_CREDENTIAL", "kw_a")];

    #[test]
    fn flags_go_before_variables_and_the_rest_has_defaults() {
        let settings = read(&Flags::default(), &GOOD).unwrap();
        assert_eq!(settings.upstream, ["http://127.0.0.1:50051"]);
        assert_eq!(settings.listen, [Listen::Unix("/run/keyward.sock".into())]);
        assert_eq!((settings.socket_mode, settings.socket_auth), (0o600, SocketAuth::Credential));
        let flags = Flags {
            upstream: vec!["https://a".into(), "https://b".into()],
            listen: vec!["unix:/tmp/a".into(), "localhost:0".into(), "[::1]:7".into()],
            socket_mode: Some("0660".into()),
            socket_auth: Some("file-mode".into()),
            ..Flags::default()
        };
        let settings = read(&flags, &GOOD).unwrap();
        assert_eq!(settings.upstream, ["https://a", "https://b"]);
        let loopback = |text: &str| Listen::Loopback(text.parse().unwrap());
        assert_eq!(settings.listen, [Listen::Unix("/tmp/a".into()), loopback("127.0.0.1:0"), loopback("[::1]:7")]);
        assert_eq!((settings.socket_mode, settings.socket_auth), (0o660, SocketAuth::FileMode));
        let of_command_line = [GOOD[0], ("KEYWARD_API_KEY", "kw_b")];
        assert_eq!(read(&Flags::default(), &of_command_line).unwrap().credential.unwrap().expose(), "kw_b");
    }

    #[test]
    fn every_problem_is_reported_with_its_names() {
        let flags = Flags {
            upstream: vec!["http://keyward.internal:50051".into()],
            listen: vec!["0.0.0.0:50052".into(), "unix:relative".into(), "somewhere".into()],
            socket_mode: Some("0999".into()),
            socket_auth: Some("none".into()),
            memory: Some("1KiB".into()),
            metrics_addr: Some("9464".into()),
            ..Flags::default()
        };
        let problems = read(&flags, &[]).err().unwrap();
        for part in [
            "--upstream or KEYWARD_AGENT_UPSTREAM: is plain text beyond this machine",
            "--listen or KEYWARD_AGENT_LISTEN: must be a loopback address",
            "unix: needs an absolute path",
            "must be unix:/path",
            "--socket-mode or KEYWARD_AGENT_SOCKET_MODE: ",
            "--socket-auth or KEYWARD_AGENT_SOCKET_AUTH: ",
            "--memory or KEYWARD_AGENT_MEMORY: ",
            "--metrics-addr or KEYWARD_AGENT_METRICS_ADDR: ",
            "KEYWARD_AGENT_CREDENTIAL: is required",
        ] {
            assert!(problems.iter().any(|problem| problem.contains(part)), "{part} in {problems:?}");
        }
        assert_eq!(problems.len(), 9, "{problems:?}");
    }

    #[test]
    fn plain_text_beyond_this_machine_has_to_be_asked_for() {
        for (url, private) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost:1", true),
            ("https://keyward.internal", true),
            ("unix:/run/keyward.sock", true),
            ("http://10.0.0.1:1", false),
            ("http://localhost.example:1", false),
            ("http://keyward:1", false),
        ] {
            assert_eq!(is_private(url), private, "{url}");
        }
        let flags = Flags { upstream: vec!["http://keyward:1".into()], insecure: true, ..Flags::default() };
        assert!(read(&flags, &GOOD).is_ok());
    }

    #[test]
    fn a_credential_is_one_line_and_is_never_printed() {
        let bad = [GOOD[0], ("KEYWARD_AGENT_CREDENTIAL", "two words")];
        let problems = read(&Flags::default(), &bad).err().unwrap();
        assert!(problems[0].contains("one line") && !problems[0].contains("two words"), "{problems:?}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credential");
        fs::write(&file, "kw_of_the_file\n").unwrap();
        let flags = Flags { credential_file: Some(file), ..Flags::default() };
        assert_eq!(read(&flags, &GOOD).unwrap().credential.unwrap().expose(), "kw_of_the_file");
        let flags = Flags { credential_file: Some(folder.path().join("none")), ..Flags::default() };
        assert!(read(&flags, &GOOD).err().unwrap()[0].contains("--credential-file"));
    }
}
