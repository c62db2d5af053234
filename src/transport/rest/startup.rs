//! The HTTP listener while the start waits for the database: the process is live, and everything else is to be retried.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse as _, Response},
};
use http::Method;

use super::{
    error::RestError,
    layers::{self, HttpHandler},
    probes,
};
use crate::domain::{clock::Entropy, error::Error};

/// Returns the handler of a listener that has no service yet.
pub fn handler(entropy: Arc<dyn Entropy>) -> HttpHandler {
    layers::startup_stack(Router::new().fallback(respond), entropy)
}

/// One handler for all paths: a method that a path does not have is to be retried, too, and not 405.
async fn respond(request: Request) -> Response {
    let live = request.uri().path() == "/healthz" && [Method::GET, Method::HEAD].contains(request.method());
    if live {
        probes::live().await.into_response()
    } else {
        RestError::from(Error::unavailable("the service is starting")).into_response()
    }
}
