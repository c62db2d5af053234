//! `/dashboard/static/{file}`

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::{HeaderValue, Uri, header};

use super::{assets::Assets, response::not_found};

/// `GET /dashboard/static/{file}`
pub(super) async fn file(uri: Uri) -> Response {
    let name = uri.path().rsplit('/').next().unwrap_or_default();
    let Some(asset) = Assets::get().find(name) else { return not_found() };
    let mut response = Body::from(Bytes::from_static(asset.content)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
