//! The names of the settings, and their defaults as the documents list them.

/// A setting, as the documents list it.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The flag; none for what must not be an argument.
    pub flag: Option<&'static str>,
    /// The environment variable.
    pub variable: &'static str,
    /// The default, in words.
    pub default: &'static str,
}

pub(super) const UPSTREAM: Setting = Setting::new("--upstream", "KEYWARD_AGENT_UPSTREAM", "required");
pub(super) const LISTEN: Setting = Setting::new("--listen", "KEYWARD_AGENT_LISTEN", "unix:/run/keyward.sock");
pub(super) const HTTP_LISTEN: Setting = Setting::new("--http-listen", "KEYWARD_AGENT_HTTP_LISTEN", "none");
pub(super) const SOCKET_MODE: Setting = Setting::new("--socket-mode", "KEYWARD_AGENT_SOCKET_MODE", "0600");
pub(super) const SOCKET_AUTH: Setting = Setting::new("--socket-auth", "KEYWARD_AGENT_SOCKET_AUTH", "credential");
pub(super) const METRICS_ADDR: Setting = Setting::new("--metrics-addr", "KEYWARD_AGENT_METRICS_ADDR", "none");
pub(super) const CREDENTIAL_FILE: Setting = Setting::new("--credential-file", "KEYWARD_AGENT_CREDENTIAL_FILE", "none");
pub(super) const CREDENTIAL: Setting =
    Setting { flag: None, ..Setting::new("", "KEYWARD_AGENT_CREDENTIAL", "KEYWARD_API_KEY") };
pub(super) const UPSTREAM_CA: Setting =
    Setting::new("--upstream-ca", "KEYWARD_AGENT_UPSTREAM_CA", "the operating system's");
pub(super) const UPSTREAM_CERT: Setting = Setting::new("--upstream-cert", "KEYWARD_AGENT_UPSTREAM_CERT", "none");
pub(super) const UPSTREAM_KEY: Setting = Setting::new("--upstream-key", "KEYWARD_AGENT_UPSTREAM_KEY", "none");
pub(super) const MEMORY: Setting = Setting::new("--memory", "KEYWARD_AGENT_MEMORY", "64MiB");
pub(super) const CONFIG: Setting = Setting::new("--config", "KEYWARD_CONFIG", "none");
pub(super) const INSECURE: Setting = Setting::new("--insecure", "KEYWARD_AGENT_INSECURE", "false");

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

/// The variable of the command line's own credential, which the agent also takes.
pub(super) const API_KEY: &str = "KEYWARD_API_KEY";

impl Setting {
    const fn new(flag: &'static str, variable: &'static str, default: &'static str) -> Self {
        Self { flag: Some(flag), variable, default }
    }
}
