//! One address of Keyward: its connection, the stream of checks on it, and whether it is used at the moment.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use tonic::{Code, Request, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use crate::{
    backoff::Backoff,
    credential::Credential,
    error::Error,
    proto,
    stream::{CheckStream, Job},
};

/// Delays between two probes of an address that failed: the first and the longest.
const PROBE_DELAYS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// One address of Keyward.
pub(crate) struct Endpoint {
    pub(crate) channel: Channel,
    pub(crate) credential: Credential,
    /// The stream that all checks share. It is opened by the first check, and again by the first check after its end.
    stream: Mutex<Option<CheckStream>>,
    /// Set when the address failed, until a probe of it succeeds. Meanwhile other addresses are used.
    down: AtomicBool,
}

impl Endpoint {
    pub(crate) fn new(channel: Channel, credential: Credential) -> Arc<Self> {
        Arc::new(Self { channel, credential, stream: Mutex::default(), down: AtomicBool::new(false) })
    }

    /// Whether the address has not failed lately.
    pub(crate) fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    /// Asks for a verdict on the shared stream.
    ///
    /// # Errors
    ///
    /// Why there is no verdict.
    pub(crate) async fn check(self: &Arc<Self>, message: proto::VerifyRequest) -> Result<proto::VerifyResponse, Error> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs();
        let ended = || Error::unavailable("the stream of checks has ended");
        jobs.send(Job { message, reply }).await.map_err(|_| ended())?;
        let answer = answer.await.map_err(|_| ended())?;
        answer.map_err(|failure| {
            if failure.is_of_endpoint() {
                self.mark_down();
            }
            Error::of(&failure.status)
        })
    }

    /// Marks the address as down until a probe of it succeeds.
    pub(crate) fn mark_down(self: &Arc<Self>) {
        if !self.down.swap(true, Ordering::Relaxed) {
            tokio::spawn(probe(Arc::downgrade(self)));
        }
    }

    fn jobs(&self) -> tokio::sync::mpsc::Sender<Job> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        match &*stream {
            Some(open) if !open.jobs.is_closed() => open.jobs.clone(),
            _ => {
                let opened = CheckStream::open(self.channel.clone(), self.credential.clone());
                let jobs = opened.jobs.clone();
                *stream = Some(opened);
                jobs
            }
        }
    }
}

/// Probes an address until that succeeds, or until the client is dropped.
async fn probe(endpoint: Weak<Endpoint>) {
    let mut backoff = Backoff::new(PROBE_DELAYS.0, PROBE_DELAYS.1);
    loop {
        sleep(backoff.delay()).await;
        let Some(endpoint) = endpoint.upgrade() else { return };
        if timeout(PROBE_TIMEOUT, is_serving(endpoint.channel.clone())).await.unwrap_or(false) {
            endpoint.down.store(false, Ordering::Relaxed);
            return;
        }
    }
}

/// The request of `grpc.health.v1.Health/Check`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// The response of `grpc.health.v1.Health/Check`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SERVING`.
const SERVING: i32 = 1;

/// Whether a server reports SERVING in the health protocol of gRPC. A server without that protocol counts as serving.
async fn is_serving(channel: Channel) -> bool {
    let mut grpc = Grpc::new(channel);
    if grpc.ready().await.is_err() {
        return false;
    }
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    match grpc.unary(Request::new(HealthCheckRequest::default()), path, codec).await {
        Ok(response) => response.into_inner().status == SERVING,
        Err(status) => status.code() == Code::Unimplemented,
    }
}
