//! A check of one secret: what is asked, and the answer to wait for.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use crate::{client::Client, error::Error, proto, verdict::Verdict};

/// A check of one secret. Await it for the verdict. What is not named is not asserted.
#[must_use = "a check does nothing until it is awaited"]
pub struct Check<'a> {
    client: &'a Client,
    secret: &'a str,
    keyspace: &'a str,
    organization: &'a str,
    instance: &'a str,
    environment: &'a str,
    scopes: Vec<&'a str>,
    cost: Option<u32>,
    timeout: Option<Duration>,
}

impl<'a> Check<'a> {
    pub(crate) fn new(client: &'a Client, secret: &'a str) -> Self {
        Self {
            client,
            secret,
            keyspace: "",
            organization: "",
            instance: "",
            environment: "",
            scopes: Vec::new(),
            cost: None,
            timeout: None,
        }
    }

    /// The keyspace that the key must be of. Name it wherever more than one is configured: a key of another product is
    /// then [`Reason::NotFound`](crate::Reason::NotFound).
    pub fn keyspace(mut self, keyspace: &'a str) -> Self {
        self.keyspace = keyspace;
        self
    }

    /// The organization that the key must be bound to.
    pub fn organization(mut self, organization: &'a str) -> Self {
        self.organization = organization;
        self
    }

    /// The instance that the key must be bound to.
    pub fn instance(mut self, instance: &'a str) -> Self {
        self.instance = instance;
        self
    }

    /// The environment that the key must be bound to.
    pub fn environment(mut self, environment: &'a str) -> Self {
        self.environment = environment;
        self
    }

    /// A scope that the key must have. Name it again for further ones: the key must have all of them.
    pub fn scope(mut self, scope: &'a str) -> Self {
        self.scopes.push(scope);
        self
    }

    /// Scopes that the key must have, all of them.
    pub fn scopes(mut self, scopes: impl IntoIterator<Item = &'a str>) -> Self {
        self.scopes.extend(scopes);
        self
    }

    /// How much the check counts against the key's rate limit: 1 if it is not set; 0 counts nothing.
    pub fn cost(mut self, cost: u32) -> Self {
        self.cost = Some(cost);
        self
    }

    /// How long to wait for the verdict, instead of the client's own timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    fn message(&self) -> proto::VerifyRequest {
        proto::VerifyRequest {
            secret: self.secret.to_owned(),
            keyspace: self.keyspace.to_owned(),
            organization: self.organization.to_owned(),
            instance: self.instance.to_owned(),
            environment: self.environment.to_owned(),
            required_scopes: self.scopes.iter().map(|&scope| scope.to_owned()).collect(),
            cost: self.cost,
        }
    }
}

impl fmt::Debug for Check<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("keyspace", &self.keyspace).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

impl<'a> IntoFuture for Check<'a> {
    type Output = Result<Verdict, Error>;
    type IntoFuture = CheckFuture<'a>;

    fn into_future(self) -> CheckFuture<'a> {
        let (message, timeout) = (self.message(), self.timeout);
        CheckFuture(Box::pin(self.client.call(message, timeout)))
    }
}

/// Waits for the verdict of a [`Check`].
#[must_use = "futures do nothing until they are awaited"]
pub struct CheckFuture<'a>(Pin<Box<dyn Future<Output = Result<Verdict, Error>> + Send + 'a>>);

impl Future for CheckFuture<'_> {
    type Output = Result<Verdict, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for CheckFuture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckFuture")
    }
}
