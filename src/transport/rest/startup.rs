//! The HTTP listener while the start waits for the database: liveness succeeds, and every other request is answered
//! 503.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use http::Method;
use tokio::sync::watch;

use super::{
    error::RestError,
    layers::{self, HttpHandler},
    probes,
};
use crate::domain::{clock::Entropy, error::Error};

/// Returns the handler of a listener that has no service yet. `waits_for` is what the start waits for now, as a sentence
/// for everybody.
pub fn handler(entropy: Arc<dyn Entropy>, waits_for: watch::Receiver<&'static str>) -> HttpHandler {
    layers::startup_stack(Router::new().fallback(respond).with_state(waits_for), entropy)
}

/// One handler for all paths: a method that a path does not have is answered 503, too, and not 405.
async fn respond(State(waits_for): State<watch::Receiver<&'static str>>, request: Request) -> Response {
    let probes = [Method::GET, Method::HEAD].contains(request.method());
    match request.uri().path() {
        "/healthz" if probes => probes::live().await.into_response(),
        "/readyz" if probes => {
            let why = *waits_for.borrow();
            RestError::from(Error { message: why.into(), ..Error::unavailable(why) }).into_response()
        }
        _ => RestError::from(Error::unavailable("the service is starting")).into_response(),
    }
}
