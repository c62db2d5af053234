//! Ids in paths.

use axum::extract::{FromRequestParts, MatchedPath};
use http::request::Parts;

use crate::{domain::error::Error, transport::rest::error::RestError};

/// The `{id}` of a path, as it stands there. axum's own extractor decodes `%`, so one id would have several spellings.
pub(crate) struct PathId(pub(in crate::transport::rest) String);

impl PathId {
    pub(crate) fn of(parts: &Parts) -> Option<&str> {
        let pattern = parts.extensions.get::<MatchedPath>()?.as_str();
        let mut segments = pattern.split('/').zip(parts.uri.path().split('/'));
        segments.find(|(pattern, _)| *pattern == "{id}").map(|(_, id)| id)
    }
}

impl<S: Sync> FromRequestParts<S> for PathId {
    type Rejection = RestError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, RestError> {
        let id = Self::of(parts).map(str::to_owned);
        id.map(Self).ok_or_else(|| Error::internal("the route has no id in its path").into())
    }
}
