//! The sockets that the process listens on.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;

use super::error::RunError;
use crate::config::Config;

/// The sockets. They are bound before anything else, so that a port that is in use shows at once.
pub struct Listeners {
    pub grpc: Arc<TcpListener>,
    pub http: Arc<TcpListener>,
    pub metrics: Option<Arc<TcpListener>>,
}

/// The addresses that the sockets are bound to.
pub struct Addresses {
    pub grpc: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
}

impl Listeners {
    pub async fn bind(config: &Config) -> Result<Self, RunError> {
        let bind = async |address| {
            TcpListener::bind(address).await.map(Arc::new).map_err(|error| RunError::Listen(address, error))
        };
        let metrics = match config.server.metrics_addr {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self { grpc: bind(config.server.grpc_addr).await?, http: bind(config.server.http_addr).await?, metrics })
    }

    pub fn addresses(&self) -> Addresses {
        Addresses {
            grpc: self.grpc.local_addr().ok(),
            http: self.http.local_addr().ok(),
            metrics: self.metrics.as_ref().and_then(|listener| listener.local_addr().ok()),
        }
    }
}
