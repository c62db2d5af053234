//! Request bodies.

use axum::extract::{FromRequest, Request};
use http::request::Parts;

use super::fields::Fields;
use crate::transport::rest::{error::RestError, request::RequestContext};

/// A body that is read field by field.
pub(crate) trait FromFields: Sized {
    /// Takes the fields, and records every invalid one.
    fn from_fields(fields: &mut Fields, parts: &Parts) -> Self;
}

/// A JSON body. axum's `Json` stops at the first invalid field and accepts a name that is given twice; this one names
/// every invalid field at once, and refuses unknown ones and those given twice.
pub(crate) struct StrictJson<T>(pub(in crate::transport::rest) T);

impl<S: Sync, T: FromFields> FromRequest<S> for StrictJson<T> {
    type Rejection = RestError;

    async fn from_request(request: Request, _: &S) -> Result<Self, RestError> {
        let (parts, body) = request.into_parts();
        let context = RequestContext::of(&parts)?;
        let mut fields = Fields::read(&parts.headers, body, &context).await?;
        let value = T::from_fields(&mut fields, &parts);
        fields.finish()?;
        Ok(Self(value))
    }
}
