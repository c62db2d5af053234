//! Forms: bounded, and read field by field, so that an error names every invalid field.

use axum::{body::Body, extract::Request, response::Response};
use http::{StatusCode, header, request::Parts};
use hyper::body::Body as _;
use tokio::time::timeout_at;

use super::response::failure;
use crate::{
    domain::{
        error::{Error, ErrorKind, Result},
        validation::Violations,
    },
    transport::rest::{extract::fields, request::RequestContext},
};

/// The largest form. The longest valid one, with metadata and fifty selected keys, is a quarter of this.
const MAX_FORM_BYTES: usize = 64 << 10;
/// The most fields of a form.
const MAX_FIELDS: usize = 256;
/// Maximum number of unknown fields that an error names.
const MAX_UNKNOWN_NAMES: usize = 8;

/// The fields of a form. A handler takes its fields one by one; a field that is left at the end is unknown.
#[derive(Debug, Default)]
pub(super) struct Form {
    fields: Vec<(String, String)>,
    violations: Violations,
}

impl Form {
    /// Reads the body of a request.
    pub(super) async fn read(
        request: Request,
        context: &RequestContext,
    ) -> std::result::Result<(Parts, Self), Response> {
        let (parts, body) = request.into_parts();
        match Self::read_body(&parts, body, context).await {
            Ok(form) => Ok((parts, form)),
            Err(error) => {
                let large = error.fields.iter().any(|bad| bad.description == TOO_LARGE);
                let mut response = failure(error, None);
                if large {
                    *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
                }
                Err(response)
            }
        }
    }

    async fn read_body(parts: &Parts, body: Body, context: &RequestContext) -> Result<Self> {
        if body.size_hint().exact().is_some_and(|bytes| bytes > MAX_FORM_BYTES as u64) {
            return Err(Error::invalid("form", TOO_LARGE));
        }
        let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(Error::invalid("form", "must be application/x-www-form-urlencoded"));
        }
        let reading = fields::collect(&parts.headers, body, context);
        let (bytes, _memory) = timeout_at(context.body_deadline(), reading)
            .await
            .map_err(|_| Error::invalid("form", "did not arrive in time"))?
            .map_err(|_| Error::invalid("form", "could not be read"))?;
        if bytes.len() > MAX_FORM_BYTES {
            return Err(Error::invalid("form", TOO_LARGE));
        }
        let pairs = url::form_urlencoded::parse(&bytes).take(MAX_FIELDS + 1);
        let fields: Vec<_> = pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        if fields.len() > MAX_FIELDS {
            return Err(Error::invalid("form", "has too many fields"));
        }
        Ok(Self { fields, violations: Violations::default() })
    }

    /// A field that occurs once; empty if it is absent.
    pub(super) fn one(&mut self, name: &'static str) -> String {
        let mut values = self.many(name);
        if values.len() > 1 {
            self.violations.add(name, "must be given once");
        }
        if values.is_empty() { String::new() } else { values.swap_remove(0) }
    }

    /// Every value of a field.
    pub(super) fn many(&mut self, name: &'static str) -> Vec<String> {
        let mut values = Vec::new();
        self.fields.retain_mut(|(known, value)| {
            let found = known == name;
            if found {
                values.push(std::mem::take(value));
            }
            !found
        });
        values
    }

    /// Fails if a field was given twice or is unknown.
    pub(super) fn finish(mut self) -> Result<()> {
        for (name, _) in self.fields.iter().take(MAX_UNKNOWN_NAMES) {
            self.violations.add(name.chars().take(64).collect::<String>(), "unknown field");
        }
        self.violations.finish()
    }
}

const TOO_LARGE: &str = "must be at most 64 KiB";

/// The refusal of a form that does not prove that a page of this session sent it.
pub(super) fn foreign() -> Error {
    Error::new(
        ErrorKind::PermissionDenied,
        "FORBIDDEN",
        "This form is out of date, or was not sent by a page of this dashboard. Please go back, load the page again and \
         repeat it.",
    )
}
