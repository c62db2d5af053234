//! A check of one secret: its assertions, and the future of its verdict.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use crate::{asserted::Asserted, client::Client, error::Error, proto, verdict::Verdict};

/// A check of one secret. Await it for the verdict. It asserts only what its methods set.
#[must_use = "a check does nothing until it is awaited"]
pub struct Check<'a> {
    client: &'a Client,
    secret: &'a str,
    keyspace: &'a str,
    organization: &'a str,
    instance: &'a str,
    environment: &'a str,
    scopes: Scopes<'a>,
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
            scopes: Scopes::default(),
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
        scopes.into_iter().for_each(|scope| self.scopes.push(scope));
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
            required_scopes: self.scopes.all().iter().map(|&scope| scope.to_owned()).collect(),
            cost: self.cost,
        }
    }
}

impl fmt::Debug for Check<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("keyspace", &self.keyspace)
            .field("scopes", &self.scopes.all())
            .finish_non_exhaustive()
    }
}

impl<'a> IntoFuture for Check<'a> {
    type Output = Result<Verdict, Error>;
    type IntoFuture = CheckFuture<'a>;

    fn into_future(self) -> CheckFuture<'a> {
        let asserted = Asserted {
            keyspace: self.keyspace,
            organization: self.organization,
            instance: self.instance,
            environment: self.environment,
            scopes: self.scopes.all(),
        };
        if let Some(principal) = self.client.verify_in_memory(self.secret, &asserted) {
            return CheckFuture(Progress::Decided(Some(Verdict::Valid(principal))));
        }
        let (message, timeout) = (self.message(), self.timeout);
        CheckFuture(Progress::Calling(Box::pin(self.client.call(message, timeout))))
    }
}

/// A few scopes, without an allocation.
#[derive(Default)]
struct Scopes<'a> {
    few: [&'a str; 4],
    count: usize,
    /// All of them, if they are not few.
    many: Vec<&'a str>,
}

impl<'a> Scopes<'a> {
    fn push(&mut self, scope: &'a str) {
        if let Some(slot) = self.few.get_mut(self.count) {
            *slot = scope;
            self.count += 1;
            return;
        }
        if self.many.is_empty() {
            self.many.extend(self.few);
        }
        self.many.push(scope);
    }

    fn all(&self) -> &[&'a str] {
        if self.many.is_empty() { &self.few[..self.count] } else { &self.many }
    }
}

/// Waits for the verdict of a [`Check`].
#[must_use = "futures do nothing until they are awaited"]
pub struct CheckFuture<'a>(Progress<'a>);

enum Progress<'a> {
    /// Decided from memory.
    Decided(Option<Verdict>),
    /// A call to Keyward decides.
    Calling(Pin<Box<dyn Future<Output = Result<Verdict, Error>> + Send + 'a>>),
}

impl Future for CheckFuture<'_> {
    type Output = Result<Verdict, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Progress::Decided(verdict) => match verdict.take() {
                Some(verdict) => Poll::Ready(Ok(verdict)),
                // Polled again after its end.
                None => Poll::Pending,
            },
            Progress::Calling(call) => call.as_mut().poll(cx),
        }
    }
}

impl fmt::Debug for CheckFuture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckFuture")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_is_kept_in_order() {
        let names = ["a", "b", "c", "d", "e", "f"];
        for count in 0..=names.len() {
            let mut scopes = Scopes::default();
            names[..count].iter().for_each(|name| scopes.push(name));
            assert_eq!(scopes.all(), &names[..count]);
        }
    }
}
