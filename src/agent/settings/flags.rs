//! The flags of the command line.

use std::path::PathBuf;

use clap::Args;

/// The flags of `keyward agent`. The comments are their help texts.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// The gRPC address of a replica; may be given again for further ones [env: KEYWARD_AGENT_UPSTREAM]
    #[arg(long, value_name = "URL")]
    pub upstream: Vec<String>,
    /// unix:/path or a loopback address; may be given again [env: KEYWARD_AGENT_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<String>,
    /// Where gateways ask over HTTP, in the same forms; may be given again [env: KEYWARD_AGENT_HTTP_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    pub http_listen: Vec<String>,
    /// The mode of the socket's file [env: KEYWARD_AGENT_SOCKET_MODE] [default: 0600]
    #[arg(long, value_name = "MODE")]
    pub socket_mode: Option<String>,
    /// What authenticates callers of the socket: credential, or file-mode [env: KEYWARD_AGENT_SOCKET_AUTH]
    #[arg(long, value_name = "WHAT")]
    pub socket_auth: Option<String>,
    /// Where /metrics, /healthz and /readyz are served [env: KEYWARD_AGENT_METRICS_ADDR]
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_addr: Option<String>,
    /// A file with the agent's own credential [env: KEYWARD_AGENT_CREDENTIAL_FILE]
    #[arg(long, value_name = "FILE")]
    pub credential_file: Option<PathBuf>,
    /// The authorities of the replicas' certificates, in PEM [env: KEYWARD_AGENT_UPSTREAM_CA]
    #[arg(long, value_name = "FILE")]
    pub upstream_ca: Option<PathBuf>,
    /// The agent's own certificate, in PEM [env: KEYWARD_AGENT_UPSTREAM_CERT]
    #[arg(long, value_name = "FILE")]
    pub upstream_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM [env: KEYWARD_AGENT_UPSTREAM_KEY]
    #[arg(long, value_name = "FILE")]
    pub upstream_key: Option<PathBuf>,
    /// Memory for keys, such as 64MiB [env: KEYWARD_AGENT_MEMORY]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// The replicas' own configuration file: with it, checks of Envoy are answered from memory, too [env: KEYWARD_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Speaks plain text to replicas beyond this machine [env: KEYWARD_AGENT_INSECURE]
    #[arg(long)]
    pub insecure: bool,
}
