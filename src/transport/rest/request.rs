//! The context of one request: its data, and the content of its log line.

use std::{net::IpAddr, sync::Arc};

use axum::extract::FromRequestParts;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, request::Parts};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{activity::Activity, client_ip, error::RestError, scrape::MetricsText};
use crate::{
    config::Http,
    domain::{caller::Caller, clock::Micros, error::Error, key::KeyId, rate_limit::RateState},
    service::{CallContext, Services},
    transport::{
        budget::BudgetPart,
        call_log::{self, CallRecord},
        deadline,
        peer::Peer,
        refusal::rate_headers,
        request_id::{self, REQUEST_ID},
    },
};

/// What discovery answers in addition to the keyspaces.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// Where gRPC is served; `None` if it listens on every address.
    pub grpc: Option<String>,
    /// The dashboard's URL, or its path where its URL is not configured; `None` without a dashboard.
    pub dashboard: Option<String>,
}

/// What all requests share.
pub(crate) struct RestState {
    /// The use cases.
    pub(crate) service: Arc<Services>,
    /// The settings of `[http]`.
    pub(crate) http: Http,
    /// What discovery answers about the other listeners.
    pub(crate) published: Published,
    /// The OpenAPI document.
    pub(crate) document: Bytes,
    /// The text of `/metrics`.
    pub(crate) metrics_text: MetricsText,
}

/// The context of one request. Layers, extractors and the handler share it.
#[derive(Clone)]
pub(crate) struct RequestContext(Arc<Inner>);

struct Inner {
    state: Arc<RestState>,
    peer: Arc<Peer>,
    connection: Arc<Activity>,
    client: IpAddr,
    request_id: String,
    deadline: Instant,
    start: Instant,
    recorded: Mutex<Recorded>,
}

/// Facts of a call that are recorded while it is served.
#[derive(Default)]
struct Recorded {
    call: &'static str,
    caller: Option<Caller>,
    key: String,
    rate: Option<RateState>,
    /// Whether an invalid credential is counted already.
    failure_counted: bool,
}

impl RequestContext {
    /// The context of a request that arrives now.
    pub(crate) fn new(state: Arc<RestState>, peer: Arc<Peer>, connection: Arc<Activity>, headers: &HeaderMap) -> Self {
        let client = client_ip::client_ip(peer.address, headers, &state.http.trusted_proxies);
        let incoming = headers.get(REQUEST_ID).map(HeaderValue::as_bytes);
        let request_id = request_id::choose(incoming, &state.service);
        Self(Arc::new(Inner {
            state,
            peer,
            connection,
            client,
            request_id,
            deadline: deadline::deadline(None),
            start: Instant::now(),
            recorded: Mutex::default(),
        }))
    }

    /// The context of the request that these parts are of.
    pub(crate) fn of(parts: &Parts) -> Result<Self, RestError> {
        let context = parts.extensions.get::<Self>().cloned();
        context.ok_or_else(|| Error::internal("a request has no context").into())
    }

    /// The use cases.
    pub(crate) fn service(&self) -> &Arc<Services> {
        &self.0.state.service
    }

    /// The settings of `[http]`.
    pub(crate) fn http(&self) -> &Http {
        &self.0.state.http
    }

    /// What discovery answers about the other listeners.
    pub(crate) fn published(&self) -> &Published {
        &self.0.state.published
    }

    /// The OpenAPI document.
    pub(crate) fn document(&self) -> &Bytes {
        &self.0.state.document
    }

    /// The text of `/metrics`.
    pub(crate) fn metrics_text(&self) -> &MetricsText {
        &self.0.state.metrics_text
    }

    /// The client side of the connection.
    pub(crate) fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// When the call stops waiting for the request's body.
    pub(crate) fn body_deadline(&self) -> Instant {
        self.0.deadline.min(self.0.start + self.0.connection.body_timeout())
    }

    /// The part of the budget that this request uses.
    pub(crate) fn budget_part(&self) -> BudgetPart {
        match self.0.recorded.lock().caller {
            None | Some(Caller::Anonymous) => BudgetPart::Anonymous,
            Some(_) => BudgetPart::Authenticated,
        }
    }

    /// The request id.
    pub(crate) fn request_id(&self) -> &str {
        &self.0.request_id
    }

    /// When the call stops waiting.
    pub(crate) fn deadline(&self) -> Instant {
        self.0.deadline
    }

    /// Now, by the wall clock.
    pub(crate) fn now(&self) -> Micros {
        self.service().now()
    }

    /// The context that a use case gets besides its request.
    pub(crate) fn call(&self) -> CallContext<'_> {
        CallContext {
            deadline: self.0.deadline,
            host_environment: &self.http().environment,
            client: Some(self.0.client),
        }
    }

    /// Counts an invalid credential against the client's address and its connection; returns the error that the client
    /// gets.
    pub(crate) fn refused(&self, error: Error) -> Error {
        self.0.recorded.lock().failure_counted = true;
        if error.refuses_credential() {
            self.0.connection.refused();
        }
        self.service().auth.note_failure(self.0.client, error)
    }

    /// Whether [`Self::refused`] has counted a failure of this request.
    pub(crate) fn is_failure_counted(&self) -> bool {
        self.0.recorded.lock().failure_counted
    }

    /// The authenticated caller, if there is one.
    pub(crate) fn caller(&self) -> Option<Caller> {
        self.0.recorded.lock().caller.clone()
    }

    /// Names the call, for the log and the metrics.
    pub(crate) fn set_call(&self, call: &'static str) {
        self.0.recorded.lock().call = call;
    }

    /// The connection of the request.
    pub(crate) fn connection(&self) -> &Arc<Activity> {
        &self.0.connection
    }

    /// Records the caller, for the log and for the bounds of its connection.
    pub(crate) fn set_caller(&self, caller: Caller) {
        if !matches!(caller, Caller::Anonymous) {
            self.0.connection.admission.authenticated();
        }
        self.0.recorded.lock().caller = Some(caller);
    }

    /// Records the key that the call is about, for the log.
    pub(crate) fn set_key(&self, key: KeyId) {
        self.0.recorded.lock().key = key.to_string();
    }

    /// Records the state of the caller's rate limit, for the response headers.
    pub(crate) fn set_rate(&self, rate: Option<RateState>) {
        self.0.recorded.lock().rate = rate;
    }

    /// Adds the headers that depend on the request, and logs and counts the call.
    pub(crate) fn finish(&self, headers: &mut HeaderMap, error: Option<&Error>) {
        let Recorded { call, caller, key, rate, .. } = std::mem::take(&mut *self.0.recorded.lock());
        if let Ok(id) = HeaderValue::try_from(&self.0.request_id) {
            headers.insert(REQUEST_ID, id);
        }
        // If there are two limits, the headers show the one that refused the call.
        if let Some(rate) = error.and_then(|error| error.rate).or(rate) {
            for (name, value) in rate_headers(rate) {
                headers.insert(name, HeaderValue::from(value));
            }
        }
        let call = match error {
            // Log requests of no route, too: the client is misconfigured, or scans for paths.
            Some(error) if call.is_empty() && ["NO_SUCH_PATH", "METHOD_NOT_ALLOWED"].contains(&error.reason) => {
                "unknown"
            }
            _ if call.is_empty() => return,
            _ => call,
        };
        let caller = caller.as_ref();
        if let (Some(caller), Some(error)) = (caller, error) {
            self.service().trail.record_denial(caller, call, error);
        }
        let record = CallRecord {
            transport: "rest",
            caller: caller.map(Caller::kind).unwrap_or_default(),
            actor: caller.map(Caller::actor).unwrap_or_default(),
            key,
            client: Some(self.0.client),
            request: &self.0.request_id,
        };
        call_log::record(self.service(), call, &record, error, self.0.start.elapsed());
    }
}

impl<S: Sync> FromRequestParts<S> for RequestContext {
    type Rejection = RestError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, RestError> {
        Self::of(parts)
    }
}
