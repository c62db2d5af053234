//! Why the program ended without having been asked to.

use std::{io, net::SocketAddr};

use crate::{
    service::bootstrap::MasterKeyError,
    store::{OpenError, StoreError},
};

/// Why the program ended without having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The database cannot be opened.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The store failed during the start.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The master keys do not match the database.
    #[error(transparent)]
    MasterKeys(#[from] MasterKeyError),
    /// The certificates and keys cannot be loaded.
    #[error("{}", .0.join("; "))]
    Tls(Vec<String>),
    /// The system refused a thread.
    #[error("a thread could not be started: {0}")]
    Thread(io::Error),
    /// The URL of the rate limit store cannot be parsed.
    #[error("rate_limit.store: {0}")]
    RateLimitStore(String),
    /// No HTTP client can be built for the session issuers.
    #[error("the HTTP client for session issuers cannot be built: {0}")]
    Sessions(String),
    /// The gRPC server ended although it was not stopped.
    #[error("the gRPC server failed: {0}")]
    Grpc(String),
}
