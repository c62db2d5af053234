//! The client.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{service::interceptor::InterceptedService, transport::Channel};

use crate::{
    backoff::Backoff,
    builder::ClientBuilder,
    check::Check,
    credential::Credential,
    endpoints::Endpoints,
    error::{Error, ErrorKind},
    proto::{self, key_service_client::KeyServiceClient},
    verdict::Verdict,
};

/// Delays between two rounds over all addresses: the first and the longest.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// The generated client of every call, see [`Client::key_service`].
pub type KeyService = KeyServiceClient<InterceptedService<Channel, Credential>>;

/// A client of Keyward. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    endpoints: Endpoints,
    timeout: Duration,
}

impl Client {
    /// A client of the Keyward at this URL (`http://`, `https://` or `unix:/path`).
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(url.into())
    }

    pub(crate) fn new(endpoints: Endpoints, timeout: Duration) -> Self {
        Self(Arc::new(Inner { endpoints, timeout }))
    }

    /// Checks a secret. What the check asserts is added to it before it is awaited:
    ///
    /// ```no_run
    /// # async fn f(client: keyward_client::Client) -> Result<(), keyward_client::Error> {
    /// let verdict = client.verify("nrx_…").keyspace("norrix").scope("build").await?;
    /// # Ok(()) }
    /// ```
    pub fn verify<'a>(&'a self, secret: &'a str) -> Check<'a> {
        Check::new(self, secret)
    }

    /// The generated client of every call, such as Create, List and Revoke, at the address whose turn it is. It adds the
    /// credential to each call; deadlines and retries are its user's.
    pub fn key_service(&self) -> KeyService {
        let endpoint = self.0.endpoints.next();
        KeyServiceClient::with_interceptor(endpoint.channel.clone(), endpoint.credential.clone())
    }

    /// Asks Keyward, at one address after the other, until there is a verdict or the time is over.
    pub(crate) async fn call(
        &self,
        message: proto::VerifyRequest,
        timeout: Option<Duration>,
    ) -> Result<Verdict, Error> {
        let deadline = Instant::now() + timeout.unwrap_or(self.0.timeout);
        let mut backoff = Backoff::new(RETRY_DELAYS.0, RETRY_DELAYS.1);
        let mut last = None;
        for attempt in 1.. {
            let endpoint = self.0.endpoints.next();
            match timeout_at(deadline, endpoint.check(message.clone())).await {
                Err(_) => break,
                Ok(Ok(response)) => return Verdict::of(response),
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
