//! On what terms a listener serves: TLS, age of connections, and how it ends.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::tls::Tls;
use crate::domain::{caller::Caller, clock::Entropy};

/// How long a connection that has reached its age has for what is under way on it.
pub const GRACE: Duration = Duration::from_secs(30);

/// The terms of a listener.
#[derive(Clone)]
pub struct Terms {
    /// None: plain text.
    pub tls: Option<Arc<Tls>>,
    /// The age at which a connection is ended, gracefully; none: never.
    pub max_age: Option<Duration>,
    /// Cancelled when no more connections are taken.
    pub stop: CancellationToken,
    /// How long calls in flight have from then on.
    pub drain: Duration,
}

impl Terms {
    /// The age at which one connection ends: up to a tenth less than the most, so that those made together do not come
    /// back together.
    pub fn age(&self, entropy: &dyn Entropy) -> Option<Duration> {
        let most = self.max_age?;
        let mut random = [0];
        entropy.fill(&mut random);
        Some(most.saturating_sub(most * u32::from(random[0]) / 2_560))
    }
}

/// Whoever is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Who it is by its certificate; none if that tells nothing.
    pub caller: Option<Caller>,
    /// Cancelled when the connection is to end: what goes on without an end of its own ends then.
    pub leaving: CancellationToken,
}
