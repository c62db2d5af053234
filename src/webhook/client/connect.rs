//! From a target to a connection with an address that was checked.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::rustls::pki_types::ServerName;
use url::Host;

use super::{Failure, Place, Places, Resolve};
use crate::domain::egress::{Egress, Target};

/// Addresses of one name that are tried.
const ADDRESSES: usize = 4;
/// How long one of them may take, so that the next is tried in time.
const CONNECT: Duration = Duration::from_secs(4);
/// How long a name may take: it has no place yet that would bound it.
const RESOLVE: Duration = Duration::from_secs(4);

/// Resolves the host once, checks every address, and connects to one of just these that has a place free.
pub async fn tcp(
    egress: &Egress,
    resolver: &dyn Resolve,
    places: &Arc<Places>,
    target: &Target,
) -> Result<(TcpStream, Place), Failure> {
    let addresses: Vec<IpAddr> = match &target.host {
        Host::Ipv4(v4) => vec![(*v4).into()],
        Host::Ipv6(v6) => vec![(*v6).into()],
        Host::Domain(name) => match timeout(RESOLVE, resolver.resolve(name)).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(_)) | Err(_) => return Err(Failure::Unresolved),
        },
    };
    // A name of which one address is out of bounds is not to be trusted with the others either.
    if addresses.iter().any(|address| egress.address(*address).is_err()) {
        return Err(Failure::NotPublic);
    }
    let name = target.host.to_string();
    let mut failure = if addresses.is_empty() { Failure::Unresolved } else { Failure::Crowded };
    for address in addresses.into_iter().take(ADDRESSES).map(|address| SocketAddr::new(address, target.port)) {
        let Some(place) = places.enter(&name, address) else { continue };
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok((stream, place));
            }
            Ok(Err(error)) => failure = Failure::Unreachable(error.kind().to_string()),
            Err(_) => failure = Failure::Unreachable("no answer".to_owned()),
        }
    }
    Err(failure)
}

/// Whose certificate is expected.
pub fn server_name(target: &Target) -> Result<ServerName<'static>, Failure> {
    match &target.host {
        Host::Ipv4(v4) => Ok(ServerName::from(IpAddr::from(*v4))),
        Host::Ipv6(v6) => Ok(ServerName::from(IpAddr::from(*v6))),
        Host::Domain(name) => ServerName::try_from(name.clone())
            .map_err(|_| Failure::Tls("no certificate can be for the host's name".to_owned())),
    }
}
