//! The client.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{service::interceptor::InterceptedService, transport::Channel};

use crate::{
    asserted::Asserted,
    attach::{AttachOptions, AttachStatus, Attached, LocalMemory},
    backoff::Backoff,
    builder::ClientBuilder,
    check::Check,
    connection::Connection,
    credential::Credential,
    endpoints::Endpoints,
    error::{BuildError, Error, ErrorKind},
    proto::{self, key_service_client::KeyServiceClient},
    verdict::{Principal, Verdict},
};

/// Delays between two passes over all addresses: the first and the longest.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// The generated client of every call, see [`Client::key_service`].
pub type KeyService = KeyServiceClient<InterceptedService<Channel, Credential>>;

/// A client of Keyward. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    endpoints: Arc<Endpoints>,
    timeout: Duration,
    attached: OnceLock<Attached>,
    calls: AtomicU64,
    undecided: AtomicU64,
}

/// What a client has done so far, for the metrics of its service, see [`Client::metrics`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientMetrics {
    /// Checks that were calls.
    pub calls: u64,
    /// Those of them that ended without a verdict.
    pub undecided: u64,
    /// Addresses of Keyward that have failed lately.
    pub addresses_down: usize,
    /// The keys in memory; none if the client is not attached.
    pub attach: Option<AttachStatus>,
}

impl Client {
    /// A client of the Keyward at this URL (`http://`, `https://` or `unix:/path`).
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(url.into())
    }

    pub(crate) fn new(endpoints: Endpoints, timeout: Duration) -> Self {
        Self(Arc::new(Inner {
            endpoints: Arc::new(endpoints),
            timeout,
            attached: OnceLock::new(),
            calls: AtomicU64::new(0),
            undecided: AtomicU64::new(0),
        }))
    }

    /// Checks a secret. Add assertions to the check before it is awaited:
    ///
    /// ```no_run
    /// # async fn f(client: keyward_client::Client) -> Result<(), keyward_client::Error> {
    /// let verdict = client.verify("nrx_…").keyspace("norrix").scope("build").await?;
    /// # Ok(()) }
    /// ```
    pub fn verify<'a>(&'a self, secret: &'a str) -> Check<'a> {
        Check::new(self, secret)
    }

    /// Keeps valid keys in this process's memory from now on, under a lease of Keyward's: checks of them take less than
    /// a microsecond. They are as strict as calls: Revoke waits for this client. Keys with a rate limit, and every
    /// verdict but VALID, stay calls, and so does everything without a live lease. All clones of the client share the
    /// memory.
    ///
    /// A fork of this process has no lease. Do not snapshot, checkpoint or freeze the machine of an attached process.
    ///
    /// # Errors
    ///
    /// An option that is out of its bounds; a second call; a system without a clock that counts suspension (other than
    /// Linux).
    pub fn attach(&self, options: AttachOptions) -> Result<(), BuildError> {
        let attached = Attached::start(Arc::clone(&self.0.endpoints), options)?;
        self.0.attached.set(attached).map_err(|_| BuildError::new("attach", "the client is attached already"))
    }

    /// Whether memory answers now, and how often it did not; none before [`Self::attach`].
    pub fn attach_status(&self) -> Option<AttachStatus> {
        self.0.attached.get().map(Attached::status)
    }

    /// This process's memory, if it may answer now; none before [`Self::attach`]. For programs that answer for other
    /// callers, such as `keyward agent`: [`Self::verify`] uses it by itself.
    pub fn local_memory(&self) -> Option<LocalMemory<'_>> {
        self.0.attached.get()?.local()
    }

    /// Requests the key of a secret that Keyward has found valid, to keep it in memory. [`Self::verify`] does so by
    /// itself.
    pub fn remember(&self, secret: &str) {
        if let Some(attached) = self.0.attached.get() {
            attached.request_look_up(secret);
        }
    }

    /// Ends the session of [`Self::attach`] for good: memory no longer answers, and the replica is notified, so that no
    /// Revoke waits for this client. Checks are calls from then on.
    pub async fn detach(&self) {
        if let Some(attached) = self.0.attached.get() {
            attached.stop().await;
        }
    }

    /// The connection to the next address, round robin, for generated clients of other services. Deadlines and retries
    /// are their user's.
    pub fn connection(&self) -> Connection {
        Connection::new(self.0.endpoints.next())
    }

    /// How many addresses there are.
    pub fn addresses(&self) -> usize {
        self.0.endpoints.len()
    }

    /// What this client and its clones have done so far.
    pub fn metrics(&self) -> ClientMetrics {
        ClientMetrics {
            calls: self.0.calls.load(Ordering::Relaxed),
            undecided: self.0.undecided.load(Ordering::Relaxed),
            addresses_down: self.0.endpoints.down(),
            attach: self.attach_status(),
        }
    }

    /// The principal of a secret, if memory may answer and the key satisfies the check.
    pub(crate) fn verify_in_memory(&self, secret: &str, asserted: &Asserted<'_>) -> Option<Principal> {
        self.0.attached.get()?.verify(secret, asserted)
    }

    /// The generated client of every call, such as Create, List and Revoke, at the next address, round robin. It adds
    /// the credential to each call; deadlines and retries are its user's.
    pub fn key_service(&self) -> KeyService {
        let endpoint = self.0.endpoints.next();
        KeyServiceClient::with_interceptor(endpoint.channel.clone(), endpoint.credential.clone())
    }

    /// Checks by a call, and counts it.
    pub(crate) async fn call(
        &self,
        message: proto::VerifyRequest,
        timeout: Option<Duration>,
    ) -> Result<Verdict, Error> {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        let answer = self.call_with_retries(message, timeout).await;
        self.0.undecided.fetch_add(u64::from(answer.is_err()), Ordering::Relaxed);
        answer
    }

    /// Calls one address after the other until there is a verdict or the deadline passes.
    async fn call_with_retries(
        &self,
        mut message: proto::VerifyRequest,
        timeout: Option<Duration>,
    ) -> Result<Verdict, Error> {
        let deadline = Instant::now() + timeout.unwrap_or(self.0.timeout);
        let mut backoff = Backoff::new(RETRY_DELAYS.0, RETRY_DELAYS.1);
        let mut last = None;
        for attempt in 1.. {
            let endpoint = self.0.endpoints.next();
            match timeout_at(deadline, endpoint.check(message.clone())).await {
                Err(_) => break,
                Ok(Ok(response)) => {
                    let Some(attached) = self.0.attached.get() else { return Verdict::of(response, None) };
                    if response.code() == proto::Code::Valid && response.rate_limit.is_none() {
                        attached.request_look_up(&message.secret);
                    }
                    return Verdict::of(response, Some(attached.watcher(std::mem::take(&mut message.secret))));
                }
                Ok(Err(error)) if error.kind() == ErrorKind::Unavailable => last = Some(error),
                Ok(Err(error)) => return Err(error),
            }
            // Each address is tried once, then all of them again after a while.
            if attempt % self.0.endpoints.len() == 0 {
                let delay = backoff.delay();
                if Instant::now() + delay >= deadline {
                    break;
                }
                sleep(delay).await;
            }
        }
        Err(last.unwrap_or_else(Error::deadline_exceeded))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoints", &self.0.endpoints.len()).finish_non_exhaustive()
    }
}
