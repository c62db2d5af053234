//! REST: a thin shim over the same use cases, for curl and external clients.

mod api_keys;
mod body;
mod client_ip;
mod credential;
mod csrf;
mod events;
mod probes;
mod request;
mod response;
mod self_service;
pub mod server;
pub mod startup;
pub(crate) mod strict_json;
mod verify;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::Body as _;

use self::{
    request::RequestContext,
    response::{RestError, RestResponse},
};
use super::peer::Peer;
use crate::{config::Http, domain::clock::Entropy, service::Services};

/// Why a body could not be read, for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(String);

impl BodyError {
    /// The transport's own words.
    pub fn new(error: &impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// Bytes of a refused body that are taken in all the same, and for how long.
const DISCARDED: usize = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(2);

/// A request's body.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// What every route shares.
pub struct Rest {
    service: Arc<Services>,
    http: Http,
}

/// Which routes a listener has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routes {
    /// All of them.
    All,
    /// All but the metrics, which have a listener of their own.
    Api,
    /// The probes and the metrics alone.
    Probes,
}

/// A place that requests go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'a> {
    Own,
    Many,
    One(&'a str),
    Events,
    Deliveries(&'a str),
    Redeliver(&'a str),
    Verify,
    Live,
    Ready,
    Metrics,
    OpenApi,
}

impl<'a> Route<'a> {
    fn of(path: &'a str, routes: Routes) -> Option<Self> {
        let place = match path {
            "/api/v1/keys" => Self::Own,
            "/api/v1/verify" => Self::Verify,
            "/api/api-keys" => Self::Many,
            "/api/events" => Self::Events,
            "/healthz" => Self::Live,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/openapi.json" => Self::OpenApi,
            _ => Self::with_id(path)?,
        };
        let probe = matches!(place, Self::Live | Self::Ready | Self::Metrics | Self::OpenApi);
        match routes {
            Routes::All => Some(place),
            Routes::Api => (place != Self::Metrics).then_some(place),
            Routes::Probes => probe.then_some(place),
        }
    }

    /// Whether sessions may call there, also by cookie.
    fn takes_sessions(self) -> bool {
        match self {
            Self::Many | Self::One(_) | Self::Events | Self::Deliveries(_) | Self::Redeliver(_) => true,
            Self::Own | Self::Verify | Self::Live | Self::Ready | Self::Metrics | Self::OpenApi => false,
        }
    }

    /// A place that has an id in its path.
    fn with_id(path: &'a str) -> Option<Self> {
        let one = |id: &&str| !id.is_empty() && !id.contains('/');
        if let Some(id) = path.strip_prefix("/api/api-keys/") {
            return Some(id).filter(one).map(Self::One);
        }
        let (id, rest) = path.strip_prefix("/api/events/")?.split_once('/')?;
        let id = Some(id).filter(one)?;
        match rest {
            "deliveries" => Some(Self::Deliveries(id)),
            "redeliver" => Some(Self::Redeliver(id)),
            _ => None,
        }
    }

    /// The methods that the place has, as `Allow` gives them.
    fn methods(self) -> &'static str {
        match self {
            Self::Own => "GET, HEAD, POST, DELETE, PATCH",
            Self::Many => "GET, HEAD, POST",
            Self::One(_) => "GET, HEAD, DELETE, PATCH",
            Self::Verify | Self::Redeliver(_) => "POST",
            Self::Events | Self::Deliveries(_) | Self::Live | Self::Ready | Self::Metrics | Self::OpenApi => {
                "GET, HEAD"
            }
        }
    }
}

impl Rest {
    /// Serves these use cases.
    pub fn new(service: Arc<Services>, http: Http) -> Arc<Self> {
        Arc::new(Self { service, http })
    }

    async fn respond(&self, request: Request<Body>, peer: &Peer, routes: Routes) -> Response<Full<Bytes>> {
        let (parts, mut body) = request.into_parts();
        let mut exchange = RequestContext::new(&self.service, &self.http, &parts, peer);
        let result = dispatch(&mut exchange, &mut body, routes).await;
        let mut response = exchange.finish(result);
        // A client that waits for leave to send has none, and gets its answer.
        if !parts.headers.contains_key(header::EXPECT) {
            discard(body).await;
        }
        if parts.method == Method::HEAD {
            *response.body_mut() = Full::default();
        }
        response
    }
}

impl server::HttpHandler for Rest {
    fn answer<'a>(
        &'a self,
        request: Request<Body>,
        peer: &'a Peer,
        routes: Routes,
    ) -> BoxFuture<'a, Response<Full<Bytes>>> {
        self.respond(request, peer, routes).boxed()
    }

    fn entropy(&self) -> &dyn Entropy {
        &*self.service.entropy
    }
}

/// Takes in what was left unread of a refused request, for a while. A connection that is closed on bytes still under
/// way is reset, and the client would lose the answer that says why.
async fn discard(mut body: Body) {
    let taking = async {
        let mut left = DISCARDED;
        while left > 0 && !body.is_end_stream() {
            let Some(Ok(frame)) = body.frame().await else { break };
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    let _ = tokio::time::timeout(PATIENCE, taking).await;
}

async fn dispatch(
    exchange: &mut RequestContext<'_>,
    body: &mut Body,
    routes: Routes,
) -> Result<RestResponse, RestError> {
    let path = exchange.parts.uri.path();
    let Some(place) = Route::of(path, routes) else { return Err(RestError::NoSuchPath) };
    exchange.take_sessions(place.takes_sessions());
    // A HEAD is a GET whose body is left out at the end.
    let method = if exchange.parts.method == Method::HEAD { &Method::GET } else { &exchange.parts.method };
    match (place, method.as_str()) {
        (Route::Own, "POST") => self_service::create(exchange.named("create_own"), body).await,
        (Route::Own, "GET") => self_service::read(exchange.named("get_own")).await,
        (Route::Own, "DELETE") => self_service::revoke(exchange.named("revoke_own")).await,
        (Route::Own, "PATCH") => self_service::update(exchange.named("update_own_webhook"), body).await,
        (Route::Many, "POST") => api_keys::create(exchange.named("create"), body).await,
        (Route::Many, "GET") => api_keys::list(exchange.named("list")).await,
        (Route::One(id), "GET") => api_keys::read(exchange.named("get"), id).await,
        (Route::One(id), "DELETE") => api_keys::revoke(exchange.named("revoke").revoking(id), id, body).await,
        (Route::One(id), "PATCH") => api_keys::update(exchange.named("update_webhook"), id, body).await,
        (Route::Events, "GET") => events::list(exchange.named("list_events")).await,
        (Route::Deliveries(id), "GET") => events::deliveries(exchange.named("list_deliveries"), id).await,
        (Route::Redeliver(id), "POST") => events::redeliver(exchange.named("redeliver"), id, body).await,
        (Route::Verify, "POST") => verify::verify(exchange.named("verify"), body).await,
        (Route::Live, "GET") => Ok(probes::live()),
        (Route::Ready, "GET") => probes::ready(exchange.service).await,
        (Route::Metrics, "GET") => Ok(probes::metrics(exchange.service)),
        (Route::OpenApi, "GET") => Ok(probes::openapi()),
        (place, _) => Err(RestError::NoSuchMethod(place.methods())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A route without a description, or the other way round, does not pass.
    #[test]
    fn every_place_and_method_is_in_the_openapi_document() {
        let document: serde_json::Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let mut left: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        for (path, place) in [
            ("/api/v1/keys", Route::Own),
            ("/api/api-keys", Route::Many),
            ("/api/api-keys/{id}", Route::One("{id}")),
            ("/api/events", Route::Events),
            ("/api/events/{id}/deliveries", Route::Deliveries("{id}")),
            ("/api/events/{id}/redeliver", Route::Redeliver("{id}")),
            ("/api/v1/verify", Route::Verify),
            ("/healthz", Route::Live),
            ("/readyz", Route::Ready),
            ("/metrics", Route::Metrics),
            ("/openapi.json", Route::OpenApi),
        ] {
            assert_eq!(Route::of(path, Routes::All), Some(place));
            let item = document["paths"][path].as_object().unwrap();
            let described: BTreeSet<String> =
                item.keys().filter(|name| *name != "parameters").map(|method| method.to_uppercase()).collect();
            let served = place.methods().split(", ").filter(|method| *method != "HEAD").map(str::to_owned).collect();
            assert_eq!(described, served, "{path}");
            left.remove(path);
        }
        assert!(left.is_empty(), "{left:?}");
    }
}
