//! Ids in paths.

use std::borrow::Cow;

use axum::extract::{FromRequestParts, MatchedPath};
use http::request::Parts;

use crate::{domain::error::Error, transport::rest::error::RestError};

/// The `{id}` of a path. Some clients percent-encode every character that is not a letter or a digit.
pub(crate) struct PathId(pub(in crate::transport::rest) String);

impl PathId {
    pub(crate) fn of(parts: &Parts) -> Option<Cow<'_, str>> {
        let pattern = parts.extensions.get::<MatchedPath>()?.as_str();
        let mut segments = pattern.split('/').zip(parts.uri.path().split('/'));
        let (_, id) = segments.find(|(pattern, _)| *pattern == "{id}")?;
        // What is not UTF-8 names no key.
        Some(percent_encoding::percent_decode_str(id).decode_utf8_lossy())
    }
}

impl<S: Sync> FromRequestParts<S> for PathId {
    type Rejection = RestError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, RestError> {
        let id = Self::of(parts).map(Cow::into_owned);
        id.map(Self).ok_or_else(|| Error::internal("the route has no id in its path").into())
    }
}
