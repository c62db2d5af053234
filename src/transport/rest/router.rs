//! The routes, and the OpenAPI document that is made from them.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    middleware::{Next, from_fn},
    routing::any,
};
use bytes::Bytes;
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouter},
    routes,
};

use super::{
    api_keys,
    error::RestError,
    events, forward_auth, identity,
    layers::{self, HttpHandler},
    openapi, probes,
    request::{Published, RequestContext, RestState},
    scrape::MetricsText,
    self_service, verify,
};
use crate::{config::Http, service::Services};

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

/// The REST API over the use cases of a service.
pub struct Rest {
    state: Arc<RestState>,
    /// Routes for people, outside the API.
    pages: Router,
}

impl Rest {
    /// Serves these use cases.
    pub fn new(service: Arc<Services>, http: Http, published: Published) -> Self {
        let document = openapi::document(table(Routes::All).into_openapi());
        let document = Bytes::from(document);
        let state = Arc::new(RestState { service, http, published, document, metrics_text: MetricsText::new() });
        Self { state, pages: Router::new() }
    }

    /// The same with routes for people. Their requests pass the same layers.
    #[must_use]
    pub fn with_pages(self, pages: Router) -> Self {
        Self { pages, ..self }
    }

    /// Returns the handler of one listener.
    pub fn handler(&self, routes: Routes) -> HttpHandler {
        let pages = if routes == Routes::Probes { Router::new() } else { self.pages.clone() };
        let table = Router::from(table(routes))
            .merge(pages)
            .fallback(async || RestError::NoSuchPath)
            .method_not_allowed_fallback(async || RestError::MethodNotAllowed);
        layers::stack(table, &self.state)
    }
}

/// The list of routes. `Allow` names the methods of a path in the order in which they are listed here.
fn table(routes: Routes) -> OpenApiRouter {
    let api = || {
        OpenApiRouter::default()
            .routes(call("get_own", routes!(self_service::get)))
            .routes(call("create_own", routes!(self_service::create)))
            .routes(call("revoke_own", routes!(self_service::revoke)))
            .routes(call("update_own_webhook", routes!(self_service::update_webhook)))
            .routes(call("list", routes!(api_keys::list)))
            .routes(call("create", routes!(api_keys::create)))
            .routes(call("get", routes!(api_keys::get)))
            .routes(call("revoke", routes!(api_keys::revoke)))
            .routes(call("update_webhook", routes!(api_keys::update_webhook)))
            .routes(call("list_events", routes!(events::list)))
            .routes(call("list_deliveries", routes!(events::deliveries)))
            .routes(call("redeliver", routes!(events::redeliver)))
            .routes(call("verify", routes!(verify::verify)))
            .routes(call("whoami", routes!(identity::whoami)))
            .routes(call("discovery", routes!(identity::discovery)))
            // Not in the document: gateways call these, with any method, and no client does.
            .route("/forward-auth/{kind}/{keyspace}", any(forward_auth::decide))
            .route("/forward-auth/{kind}/{keyspace}/{environment}", any(forward_auth::decide))
    };
    let probes = || {
        OpenApiRouter::default()
            .routes(routes!(probes::live))
            .routes(routes!(probes::ready))
            .routes(routes!(probes::openapi))
    };
    let metrics = || OpenApiRouter::default().routes(routes!(probes::metrics));
    match routes {
        Routes::All => api().merge(probes()).merge(metrics()),
        Routes::Api => api().merge(probes()),
        Routes::Probes => probes().merge(metrics()),
    }
}

/// Gives a route the name that its calls have in the log and in the metrics. Calls of routes without a name are neither
/// logged nor counted: probes arrive every few seconds and would only add noise.
fn call(name: &'static str, (schemas, paths, methods): UtoipaMethodRouter) -> UtoipaMethodRouter {
    let methods = methods.route_layer(from_fn(move |context: RequestContext, request: Request, next: Next| {
        context.set_call(name);
        next.run(request)
    }));
    (schemas, paths, methods)
}
