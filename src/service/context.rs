//! The context of a call: its deadline, its host and its client; and the bound on its store calls.

use std::net::IpAddr;

use tokio::time::{Instant, timeout_at};

use crate::{
    domain::error::{Error, Result},
    store::StoreError,
};

/// What a call brings along besides its request.
#[derive(Debug, Clone, Copy)]
pub struct CallContext<'a> {
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// The environment of the host that was called, which keys of keyspaces with environments must have; empty if the
    /// host has none.
    pub host_environment: &'a str,
    /// The client address that a creation without a credential counts against. Without one, as in gRPC, no key is
    /// created without a credential.
    pub client: Option<IpAddr>,
}

impl CallContext<'_> {
    /// Awaits a store call until the caller's deadline. The store call itself is not cancelled.
    pub(super) async fn bounded<T>(self, call: impl Future<Output = std::result::Result<T, StoreError>>) -> Result<T> {
        match timeout_at(self.deadline, call).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(Error::deadline_exceeded()),
        }
    }
}
