//! Whether an agent can answer, as its health service reports it.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, HealthCheckResponse, health_check_response},
    server::HealthReporter,
};

use super::{caller::Caller, state::Agent};
use crate::{
    proto::{VerifyRequest, VerifyResponse},
    transport::grpc::plain_call::VERIFY_PATH,
};

const HEALTH_PATH: &str = "/grpc.health.v1.Health/Check";
/// The names that the health service answers for: the agent as a whole, and each gRPC service.
const HEALTH_NAMES: [&str; 3] = ["", "keyward.v1.KeyService", "envoy.service.auth.v3.Authorization"];
/// How often the lease is read, which is in memory.
const LEASE_INTERVAL: Duration = Duration::from_millis(100);
/// How often the replicas are probed while there is no lease.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Sets what the health service answers.
pub(super) async fn set_serving(health: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in HEALTH_NAMES {
        health.set_service_status(name, status).await;
    }
}

/// Checks the lease and the replicas until `stop`. Sets the health service at each change, and to NOT_SERVING at the end.
pub(super) async fn follow(agent: Arc<Agent>, health: HealthReporter, stop: CancellationToken) {
    let checking = async {
        let mut serving = false;
        loop {
            let live = agent.client.attach_status().is_some_and(|status| status.live);
            let able = live || is_serving(&agent).await;
            if able != serving {
                serving = able;
                agent.counters.set_serving(serving);
                set_serving(&health, serving).await;
                if serving {
                    tracing::info!("a replica answers");
                    warn_of_credential(&agent).await;
                } else {
                    tracing::warn!("no lease, and no replica answers: calls are refused");
                }
            }
            sleep(if live { LEASE_INTERVAL } else { PROBE_INTERVAL }).await;
        }
    };
    stop.run_until_cancelled(checking).await;
    agent.counters.set_serving(false);
    set_serving(&health, false).await;
}

/// Whether any replica serves. Probes every address, because one replica's NOT_SERVING does not describe the others.
async fn is_serving(agent: &Agent) -> bool {
    for _ in 0..agent.client.addresses() {
        let deadline = Instant::now() + PROBE_TIMEOUT;
        let request = HealthCheckRequest::default();
        let answer = agent.upstream.unary(HEALTH_PATH, (Caller::Own, true), &request, deadline).await;
        let serves = |answer: HealthCheckResponse| answer.status() == health_check_response::ServingStatus::Serving;
        if answer.is_ok_and(serves) {
            return true;
        }
    }
    false
}

/// Logs a warning if the replicas refuse the agent's own credential: its callers still get answers, but none from memory.
async fn warn_of_credential(agent: &Agent) {
    let deadline = Instant::now() + PROBE_TIMEOUT;
    // No key has an empty secret: the answer depends on the caller alone.
    let request = VerifyRequest::default();
    let answer: Result<VerifyResponse, Status> =
        agent.upstream.unary(VERIFY_PATH, (Caller::Own, true), &request, deadline).await;
    if let Err(status) = answer
        && matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
    {
        let why = status.message();
        tracing::warn!(why, "the agent's credential is refused: nothing is answered from memory");
    }
}
