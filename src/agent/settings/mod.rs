//! The settings of an agent, from flags and `KEYWARD_AGENT_*` variables. Every problem is reported at once.

mod address;
mod flags;
mod names;
mod reader;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, net::SocketAddr};

use keyward_client::{AttachOptions, Client, ClientBuilder, Tls};

pub(super) use self::address::Listen;
use self::{
    address::is_private,
    names::{
        CREDENTIAL, HTTP_LISTEN, INSECURE, LISTEN, MEMORY, METRICS_ADDR, SOCKET_AUTH, SOCKET_MODE, UPSTREAM,
        UPSTREAM_CERT,
    },
    reader::Reader,
};
pub use self::{
    flags::Flags,
    names::{SETTINGS, Setting},
};
use crate::{config::size, domain::secret::Secret, service::gateway::GatewayConfig};

/// Replicas that one agent calls.
const MAX_UPSTREAMS: usize = 64;
/// Sockets that one agent listens on.
const MAX_LISTENERS: usize = 16;
/// Bytes of memory for keys.
const MEMORY_BOUNDS: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 40;

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
    /// The agent's own credential; none: its certificate identifies it.
    pub(super) credential: Option<Secret>,
    tls: Option<Tls>,
    pub(super) attach: AttachOptions,
    /// The rules that Check is answered by; none: every Check is a call.
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
        let upstream = reader.list(&UPSTREAM, &flags.upstream, MAX_UPSTREAMS);
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
        let listen = listen.iter().filter_map(|text| reader.parsed(&LISTEN, Listen::parse(text))).collect();
        let http_listen = reader.list(&HTTP_LISTEN, &flags.http_listen, MAX_LISTENERS);
        let http_listen =
            http_listen.iter().filter_map(|text| reader.parsed(&HTTP_LISTEN, Listen::parse(text))).collect();
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
