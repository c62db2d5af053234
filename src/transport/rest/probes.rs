//! What orchestrators and scrapers ask.

use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{error::RestResult, request::RequestContext, response::RestResponse};
use crate::domain::error::Error;

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Health {
    #[schema(inline)]
    status: HealthStatus,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum HealthStatus {
    Ok,
    Ready,
}

/// The process runs
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "live",
    tag = "operation",
    responses((status = 200, description = "It does.", body = Health))
)]
pub(crate) async fn live() -> RestResponse {
    RestResponse::ok(&Health { status: HealthStatus::Ok })
}

/// Calls can be served
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "ready",
    tag = "operation",
    responses((status = 200, description = "They can.", body = Health))
)]
pub(crate) async fn ready(context: RequestContext) -> RestResult {
    match context.service().health.readiness() {
        Ok(()) => Ok(RestResponse::ok(&Health { status: HealthStatus::Ready })),
        Err(why) => Err(Error { message: why.message.into(), ..Error::unavailable(why.to_string()) }.into()),
    }
}

/// Metrics in Prometheus text
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = "operation",
    responses((status = 200, description = "Prometheus text.", body = String, content_type = "text/plain"))
)]
pub(crate) async fn metrics(context: RequestContext) -> RestResponse {
    let service = context.service();
    let text = context.metrics_text().get(Instant::now(), || service.metrics.render(service.health.gauges()));
    RestResponse::text("text/plain; version=0.0.4; charset=utf-8", text)
}

/// This document
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    tag = "operation",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object))
)]
pub(crate) async fn openapi(context: RequestContext) -> RestResponse {
    RestResponse::text("application/json", context.document().clone())
}
