//! What the calls of an agent share.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use keyward_client::Client;
use tokio::time::Instant;
use tonic::Status;

use super::{
    caller::{Caller, Callers},
    local::{self, LocalCaller},
    metrics::{Call, Counters, Source},
    upstream::{Upstream, refuses_credential},
};
use crate::{
    proto::{Code, VerifyResponse},
    service::{gateway::GatewayConfig, verify::Check},
    transport::peer::Peer,
};

/// Minimum time between two requests for callers' own keys. An agent that is limited to keyspaces never gets these
/// keys, so without the interval each call would request one.
const CALLER_INTERVAL: Duration = Duration::from_millis(100);

/// An agent.
pub(super) struct Agent {
    pub(super) callers: Callers,
    /// Attached, with the agent's own credential.
    pub(super) client: Client,
    pub(super) upstream: Upstream,
    pub(super) counters: Counters,
    /// The rules for gateways' requests; none: a replica decides them.
    pub(super) gateway_config: Option<GatewayConfig>,
    /// The answer to calls that an agent does not take.
    pub(super) unsupported: String,
    began: Instant,
    /// When a caller's own key was last requested, in milliseconds since `began`.
    caller_looked_up_at: AtomicU64,
}

impl Agent {
    pub(super) fn new(
        callers: Callers,
        (client, upstream): (Client, Upstream),
        gateway_config: Option<GatewayConfig>,
        unsupported: String,
    ) -> Self {
        let (counters, began) = (Counters::default(), Instant::now());
        let caller_looked_up_at = AtomicU64::new(0);
        Self { callers, client, upstream, counters, gateway_config, unsupported, began, caller_looked_up_at }
    }

    /// The caller, if memory may answer now and holds its key.
    pub(super) fn local(&self, caller: Caller<'_>) -> Option<LocalCaller<'_>> {
        LocalCaller::of(&self.client, caller)
    }

    /// The answer to a Verify, if memory has it.
    pub(super) fn verify_locally(&self, call: Call, caller: Caller<'_>, check: &Check<'_>) -> Option<VerifyResponse> {
        let principal = self.local(caller)?.verify(check)?;
        self.counters.answered(call, Source::Memory);
        Some(local::response(&principal))
    }

    /// Records a replica's answer to a call: in the counters, on the caller's connection, and by requesting the
    /// caller's key.
    pub(super) fn note<T>(&self, call: Call, caller: Caller<'_>, peer: Option<&Peer>, answer: &Result<T, Status>) {
        match answer {
            Ok(_) => {
                self.counters.answered(call, Source::Replica);
                if let Some(peer) = peer {
                    peer.admission.authenticated();
                }
                self.remember_caller(caller);
            }
            Err(status) => {
                self.counters.failed(call, status);
                if let Some(peer) = peer.filter(|_| refuses_credential(status)) {
                    peer.refused();
                }
            }
        }
    }

    /// Requests the key that a replica has found valid, to keep it in memory.
    pub(super) fn remember(&self, secret: &str, answer: &VerifyResponse) {
        if answer.code() == Code::Valid && answer.rate_limit.is_none() {
            self.client.remember(secret);
        }
    }

    fn remember_caller(&self, caller: Caller<'_>) {
        let Caller::Secret(secret) = caller else { return };
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let interval = u64::try_from(CALLER_INTERVAL.as_millis()).unwrap_or(u64::MAX);
        let last = self.caller_looked_up_at.load(Ordering::Relaxed);
        let due = last == 0 || now.saturating_sub(last) >= interval;
        // Only one of several concurrent calls requests its key.
        if due
            && self.caller_looked_up_at.compare_exchange(last, now.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.client.remember(secret);
        }
    }
}
