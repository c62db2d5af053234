//! Connects to a target, at an address that was checked.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::rustls::pki_types::ServerName;
use url::Host;

use super::{error::SendError, resolve::Resolve};
use crate::{
    domain::egress::{Egress, Target},
    webhook::scheduler::Slot,
};

/// Maximum number of addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;
/// Timeout of one address, so that there is time for the next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// Timeout of a name: while it is resolved, no bound by address applies yet.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(4);

/// Resolves the host once, checks every address, and connects to one of these that is not full.
pub async fn tcp(
    egress: &Egress,
    resolver: &dyn Resolve,
    target: &Target,
    slot: &mut Slot,
) -> Result<TcpStream, SendError> {
    let addresses: Vec<IpAddr> = match &target.host {
        Host::Ipv4(v4) => vec![(*v4).into()],
        Host::Ipv6(v6) => vec![(*v6).into()],
        Host::Domain(name) => match timeout(RESOLVE_TIMEOUT, resolver.resolve(name)).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(_)) | Err(_) => return Err(SendError::Unresolved),
        },
    };
    // If one address of a name is not allowed, refuse the name as a whole.
    if addresses.iter().any(|address| egress.address(*address).is_err()) {
        return Err(SendError::NotPublic);
    }
    let mut error = if addresses.is_empty() { SendError::Unresolved } else { SendError::ConcurrencyLimited };
    for address in addresses.into_iter().take(MAX_ADDRESSES).map(|address| SocketAddr::new(address, target.port)) {
        if !slot.connect(address) {
            continue;
        }
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(failed)) => error = SendError::Unreachable(failed.kind().to_string()),
            Err(_) => error = SendError::Unreachable("no answer".to_owned()),
        }
    }
    Err(error)
}

/// The name that the receiver's certificate must be for.
pub fn server_name(target: &Target) -> Result<ServerName<'static>, SendError> {
    match &target.host {
        Host::Ipv4(v4) => Ok(ServerName::from(IpAddr::from(*v4))),
        Host::Ipv6(v6) => Ok(ServerName::from(IpAddr::from(*v6))),
        Host::Domain(name) => ServerName::try_from(name.clone())
            .map_err(|_| SendError::Tls("no certificate can be for the host's name".to_owned())),
    }
}
