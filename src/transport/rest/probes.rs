//! What an orchestrator and a scraper ask.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use super::response::{RestError, RestResponse};
use crate::{domain::error::Error, service::Services};

/// How long readiness waits for the database.
const PATIENCE: Duration = Duration::from_secs(2);

/// The process runs.
pub fn live() -> RestResponse {
    RestResponse::json(StatusCode::OK, &json!({"status": "ok"}))
}

/// Calls can be served.
pub async fn ready(service: &Services) -> Result<RestResponse, RestError> {
    match tokio::time::timeout(PATIENCE, service.health.ready()).await {
        Ok(Ok(())) => Ok(RestResponse::json(StatusCode::OK, &json!({"status": "ready"}))),
        Ok(Err(why)) => Err(Error::unavailable(why).into()),
        Err(_) => Err(Error::unavailable("the database did not answer in time").into()),
    }
}

/// Prometheus text.
pub fn metrics(service: &Services) -> RestResponse {
    RestResponse::text("text/plain; version=0.0.4; charset=utf-8", service.metrics.render(service.health.gauges()))
}

/// The API, as OpenAPI 3.1.
pub fn openapi() -> RestResponse {
    RestResponse::text("application/json", include_str!("openapi.json"))
}
