//! What answers on the listeners before the services are built.

use std::{sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::pb::health_server::{Health, HealthServer};

use super::{listeners::Listeners, port_options::PortOptions, progress::StartProgress};
use crate::{
    domain::clock::{Entropy, SystemEntropy},
    transport::{
        grpc,
        listener::ListenerOptions,
        rest::{server as http_server, startup},
    },
};

/// Timeout of calls in flight when the services take over.
const STARTUP_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Servers that answer that the process is live and not ready yet.
pub struct StartupServers {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl StartupServers {
    pub fn start<H: Health>(
        listeners: &Listeners,
        health: HealthServer<H>,
        options: &PortOptions,
        progress: &StartProgress,
    ) -> Self {
        let (tasks, stop) = (TaskTracker::new(), options.http.stop.child_token());
        let brief = |options: &ListenerOptions| ListenerOptions {
            stop: stop.clone(),
            drain: STARTUP_DRAIN_TIMEOUT,
            ..options.clone()
        };
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let handler = startup::handler(Arc::clone(&entropy), progress.message());
        tasks.spawn(grpc::startup::run(Arc::clone(&listeners.grpc), health, brief(&options.grpc)));
        tasks.spawn(http_server::run(
            Arc::clone(&listeners.http),
            handler.clone(),
            Arc::clone(&entropy),
            brief(&options.http),
        ));
        if let Some(listener) = &listeners.metrics {
            tasks.spawn(http_server::run(Arc::clone(listener), handler, entropy, brief(&options.metrics)));
        }
        tasks.close();
        Self { tasks, stop }
    }

    /// Stops answering, so that the listeners are free for the services.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}
