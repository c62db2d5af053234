//! The service that the layer puts around another one.

use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Body;
use tower_service::Service;

use super::{
    body::{BoxError, GuardedBody},
    builder::Settings,
    denial::{Denial, rate_limit_headers},
    path,
    request_id::{self, REQUEST_ID},
    route::Route,
    work::Work,
};
use crate::verdict::{Principal, Verdict};

/// A service behind a [`KeywardLayer`](super::KeywardLayer).
#[derive(Clone)]
pub struct KeywardService<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S> KeywardService<S> {
    pub(super) fn new(inner: S, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }
}

impl<S> fmt::Debug for KeywardService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeywardService").field("keyspace", &self.settings.keyspace).finish_non_exhaustive()
    }
}

impl<S: tonic::server::NamedService> tonic::server::NamedService for KeywardService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B, R> Service<Request<B>> for KeywardService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<GuardedBody<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // `poll_ready` reserved capacity in this instance, so the call must use it. A clone takes its place.
        let fresh = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, fresh);
        let settings = Arc::clone(&self.settings);
        Box::pin(async move { settings.serve(inner, request).await })
    }
}

impl Settings {
    async fn serve<S, B, R>(&self, mut inner: S, mut request: Request<B>) -> Result<Response<GuardedBody<R>>, S::Error>
    where
        S: Service<Request<B>, Response = Response<R>>,
        R: Body<Data = Bytes>,
    {
        // Remove a principal that was inserted before: only this layer may set one.
        request.extensions_mut().remove::<Principal>();
        let grpc = is_grpc(request.headers());
        let secret = self.credential.secret(request.headers());
        let id = request_id::of(request.headers(), secret.as_ref().ok().copied());
        let admitted = match self.rule(&request) {
            Ok(rule) if rule.is_some_and(Route::is_public) => Ok(None),
            Ok(rule) => match secret {
                Ok(secret) => self.check(secret, rule).await.map(Some),
                Err(denial) => Err(denial),
            },
            Err(denial) => Err(denial),
        };
        let mut response = match admitted {
            Err(denial) => denial.into_response(grpc),
            Ok(principal) => {
                if self.strip_credential {
                    self.credential.strip(request.headers_mut());
                }
                request.headers_mut().insert(REQUEST_ID, id.clone());
                let rate_limit = principal.as_ref().and_then(Principal::rate_limit);
                let work = principal.clone().filter(|_| self.end_work).map(Work::new);
                if let Some(principal) = principal {
                    request.extensions_mut().insert(principal);
                }
                let mut response = respond(inner.call(request), work, grpc).await?;
                if let Some(state) = rate_limit {
                    rate_limit_headers(response.headers_mut(), state);
                }
                response
            }
        };
        response.headers_mut().insert(REQUEST_ID, id);
        Ok(response)
    }

    /// The rule for a request; none if the layer has no rules, or allows requests that fit none.
    fn rule<B>(&self, request: &Request<B>) -> Result<Option<&Route>, Denial> {
        if self.routes.is_empty() {
            return Ok(None);
        }
        let path = path::plain(request.uri().path()).ok_or(Denial::AmbiguousPath)?;
        let rule = self.routes.iter().find(|route| route.fits(request.method(), &path));
        if rule.is_none() && !self.allow_unmatched { Err(Denial::NoRoute) } else { Ok(rule) }
    }

    async fn check(&self, secret: &str, rule: Option<&Route>) -> Result<Principal, Denial> {
        let of_route = rule.map(Route::scopes).unwrap_or_default();
        let scopes = || self.scopes.iter().chain(of_route).map(String::as_str);
        let mut check = self
            .client
            .verify(secret)
            .keyspace(&self.keyspace)
            .organization(&self.organization)
            .instance(&self.instance)
            .environment(&self.environment)
            .scopes(scopes());
        if let Some(cost) = rule.and_then(Route::spends) {
            check = check.cost(cost);
        }
        match check.await {
            Ok(Verdict::Valid(principal)) => Ok(principal),
            Ok(Verdict::Refused(refusal)) => {
                let missing = scopes().find(|scope| !refusal.has_scope(scope)).map(str::to_owned);
                Err(Denial::Refused(refusal, missing))
            }
            Err(error) => Err(Denial::Undecided(error)),
        }
    }
}

/// Waits for the service's response. If the work's key is over before, the service's future is dropped.
async fn respond<F, R, E>(future: F, work: Option<Work>, grpc: bool) -> Result<Response<GuardedBody<R>>, E>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
{
    let Some(mut work) = work else {
        return Ok(future.await?.map(|body| GuardedBody::service(body, None, grpc)));
    };
    let mut future = pin!(future);
    match poll_fn(|cx| work.poll(cx, |cx| future.as_mut().poll(cx))).await {
        Ok(response) => Ok(response?.map(|body| GuardedBody::service(body, Some(work), grpc))),
        Err(denial) => Ok(denial.into_response(grpc)),
    }
}

/// Whether the client of a request expects a gRPC status.
fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).is_some_and(|kind| {
        let suffix = kind.strip_prefix(b"application/grpc");
        suffix.is_some_and(|suffix| matches!(suffix.first(), None | Some(b'+' | b';')))
    })
}
