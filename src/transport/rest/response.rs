//! Responses: a status, a content type and a body that nothing may cache.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// A response without the headers that depend on the request.
pub(crate) struct RestResponse {
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
}

impl RestResponse {
    /// 200 with JSON.
    pub(crate) fn ok(value: &impl Serialize) -> Self {
        Self::json(StatusCode::OK, value)
    }

    /// 201 with JSON.
    pub(crate) fn created(value: &impl Serialize) -> Self {
        Self::json(StatusCode::CREATED, value)
    }

    /// JSON with any status.
    pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Self {
        // Only a map whose keys are no strings could fail, and no type of ours has one.
        let body = serde_json::to_vec(value).unwrap_or_default();
        Self { status, content_type: "application/json", body: body.into() }
    }

    /// No body.
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self { status, content_type: "application/json", body: Bytes::new() }
    }

    /// JSON that is encoded already.
    pub(crate) fn json_bytes(status: StatusCode, body: Vec<u8>) -> Self {
        Self { status, content_type: "application/json", body: body.into() }
    }

    /// 200 with a body of another type.
    pub(crate) fn text(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, content_type, body: body.into() }
    }
}

impl IntoResponse for RestResponse {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        // Most responses hold a secret, a verdict or a record.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
