//! Probes and metrics, for orchestrators and scrapers.

use http::Uri;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{error::RestResult, request::RequestContext, response::RestResponse};
use crate::{
    domain::error::Error,
    service::health::{Need, Ready},
};

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Health {
    #[schema(inline)]
    status: HealthStatus,
    /// Why there are no writes, while Verify and reads are served
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    message: Option<&'static str>,
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
    RestResponse::ok(&Health { status: HealthStatus::Ok, message: None })
}

/// Calls can be served
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "ready",
    tag = "operation",
    params(("verify" = Option<u8>, Query, description = "1: whether Verify can be answered, whatever else can")),
    responses((status = 200, description = "They can.", body = Health))
)]
pub(crate) async fn ready(context: RequestContext, uri: Uri) -> RestResult {
    // Unknown parameters are ignored: probes are set up once, for several versions.
    let mut query = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let need = if query.any(|(name, value)| name == "verify" && value == "1") { Need::Verify } else { Need::Service };
    match context.service().health.readiness(need) {
        Ok(ready) => {
            let message = match ready {
                Ready::All => None,
                Ready::WithoutWrites(why) => Some(why),
            };
            Ok(RestResponse::ok(&Health { status: HealthStatus::Ready, message }))
        }
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
