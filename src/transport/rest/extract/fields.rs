//! The fields of a JSON body: bounded, and taken one by one, so that every invalid field can be named.

use std::collections::BTreeMap;

use axum::body::Body;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use serde_json::{Map, Value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::timeout_at;

use super::strict_json;
use crate::{
    domain::{
        clock::Micros,
        error::{Error, Result},
        rate_limit::RateLimit,
        validation::Violations,
    },
    transport::{
        budget::{BudgetExceeded, Reservation},
        rest::{error::RestError, request::RequestContext},
    },
};

/// The largest body that is read.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Unknown names that an error shows.
pub(crate) const MAX_UNKNOWN_NAMES: usize = 8;

/// The fields of a body. Each is taken once; a field that is left at the end is unknown.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    fields: Map<String, Value>,
    violations: Violations,
}

impl Fields {
    pub(crate) fn of(fields: Map<String, Value>) -> Self {
        Self { fields, violations: Violations::default() }
    }

    /// Reads a body. An empty one has no fields, whatever its content type is.
    pub(crate) async fn read(
        headers: &HeaderMap,
        body: Body,
        context: &RequestContext,
    ) -> std::result::Result<Self, RestError> {
        // Checked before the body is polled: a client that waits for `100 Continue` gets the response at once.
        if body.size_hint().exact().is_some_and(|bytes| bytes > MAX_BODY_BYTES as u64) {
            return Err(RestError::BodyTooLarge);
        }
        let coded = headers
            .get_all(header::CONTENT_ENCODING)
            .iter()
            .any(|coding| !coding.is_empty() && !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"));
        if coded && !body.is_end_stream() {
            return Err(RestError::Compressed);
        }
        let reading = collect(headers, body, context);
        let (bytes, _memory) = timeout_at(context.body_deadline(), reading)
            .await
            .map_err(|_| Error::invalid("body", "did not arrive in time"))??;
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let is_json = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
            let essence = value.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("application/json")
        });
        if !is_json {
            return Err(RestError::NotJson);
        }
        // Some editors and platforms write a byte order mark before the text.
        match strict_json::read(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes)) {
            Ok(Value::Object(fields)) => Ok(Self::of(fields)),
            Ok(_) => Err(Error::invalid("body", "must be a JSON object").into()),
            // The parser's own message could repeat a value of the body.
            Err(bad) => {
                let what = if bad.twice { "has a name twice" } else { "is not JSON" };
                Err(Error::invalid("body", format!("{what}, at line {} column {}", bad.line, bad.column)).into())
            }
        }
    }

    /// Fails if a field is invalid or unknown.
    pub(crate) fn finish(mut self) -> Result<()> {
        // Name only the first ones: otherwise the response to many unknown fields would be larger than the request.
        for name in self.fields.keys().take(MAX_UNKNOWN_NAMES) {
            let shown: String = name.chars().take(64).collect();
            self.violations.add(shown, "unknown field");
        }
        self.violations.finish()
    }

    /// Records an invalid field. Of several problems with one field, the first one is kept.
    pub(crate) fn bad(&mut self, field: &'static str, description: &'static str) {
        if !self.violations.contains(field) {
            self.violations.add(field, description);
        }
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        // Null means the same as an absent field.
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    /// Whether the field is there and not null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|value| !value.is_null())
    }

    /// A string.
    pub(crate) fn text(&mut self, name: &'static str) -> Option<String> {
        let Value::String(text) = self.take(name)? else {
            self.bad(name, "must be a string");
            return None;
        };
        Some(text)
    }

    /// A string; empty if absent.
    pub(crate) fn text_or_empty(&mut self, name: &'static str) -> String {
        self.text(name).unwrap_or_default()
    }

    /// A list of strings.
    pub(crate) fn texts(&mut self, name: &'static str) -> Option<Vec<String>> {
        let Value::Array(items) = self.take(name)? else {
            self.bad(name, "must be a list of strings");
            return None;
        };
        let texts: Option<Vec<String>> =
            items.into_iter().map(|item| if let Value::String(text) = item { Some(text) } else { None }).collect();
        if texts.is_none() {
            self.bad(name, "must be a list of strings");
        }
        texts
    }

    /// Scopes to grant. Absent means the defaults; an empty list is refused.
    pub(crate) fn scopes(&mut self) -> Option<Vec<String>> {
        let scopes = self.texts("scopes")?;
        if scopes.is_empty() {
            self.bad("scopes", "must not be empty; leave it out for the defaults");
        }
        Some(scopes)
    }

    /// Keyspaces that a service is limited to. Absent means all; an empty list is refused.
    pub(crate) fn keyspaces(&mut self) -> Vec<String> {
        let keyspaces = self.texts("keyspaces");
        if keyspaces.as_ref().is_some_and(Vec::is_empty) {
            self.bad("keyspaces", "must not be empty; leave it out for all");
        }
        keyspaces.unwrap_or_default()
    }

    /// A whole number within bounds.
    pub(crate) fn number(
        &mut self,
        name: &'static str,
        bounds: std::ops::RangeInclusive<u64>,
        what: &'static str,
    ) -> Option<u64> {
        let number = whole(&self.take(name)?).filter(|number| bounds.contains(number));
        if number.is_none() {
            self.bad(name, what);
        }
        number
    }

    /// True or false; false if absent.
    pub(crate) fn flag(&mut self, name: &'static str) -> bool {
        match self.take(name) {
            None => false,
            Some(Value::Bool(flag)) => flag,
            Some(_) => {
                self.bad(name, "must be true or false");
                false
            }
        }
    }

    /// An object of strings.
    pub(crate) fn pairs(&mut self, name: &'static str) -> BTreeMap<String, String> {
        let pairs = match self.take(name) {
            None => Some(BTreeMap::new()),
            Some(Value::Object(pairs)) => pairs
                .into_iter()
                .map(|(key, value)| if let Value::String(text) = value { Some((key, text)) } else { None })
                .collect(),
            Some(_) => None,
        };
        if pairs.is_none() {
            self.bad(name, "must be an object of strings");
        }
        pairs.unwrap_or_default()
    }

    /// A key's own rate limit. The use case checks its bounds: a part that is absent or too large to represent becomes
    /// a value that is out of bounds.
    pub(crate) fn rate_limit(&mut self) -> Option<RateLimit> {
        let Value::Object(mut parts) = self.take("rateLimit")? else {
            self.bad("rateLimit", "must be an object of limit and windowMs");
            return None;
        };
        let mut number = |part: &str, field: &'static str| match parts.remove(part) {
            None | Some(Value::Null) => 0,
            Some(value) => whole(&value).unwrap_or_else(|| {
                self.bad(field, "must be a whole number");
                0
            }),
        };
        let limit = number("limit", "rateLimit.limit");
        let window = number("windowMs", "rateLimit.windowMs");
        if !parts.is_empty() {
            self.bad("rateLimit", "must be an object of limit and windowMs");
        }
        let window = Micros::try_from(window).unwrap_or(Micros::MAX).saturating_mul(1_000);
        Some(RateLimit { limit: u32::try_from(limit).unwrap_or(u32::MAX), window })
    }

    /// `expiresInDays` and `expiresAt`, of which at most one may be given. A time is RFC 3339, or unix milliseconds if the
    /// route itself writes times in that form.
    pub(crate) fn expiry(&mut self, millis: bool) -> (Option<u64>, Option<Micros>) {
        if self.has("expiresInDays") && self.has("expiresAt") {
            self.bad("expiresAt", "cannot go with expiresInDays");
        }
        let days = self.number("expiresInDays", 1..=3_650, "must be a whole number, 1 to 3650");
        let at = self.take("expiresAt").and_then(|value| {
            let at = match &value {
                Value::String(text) => rfc3339(text),
                Value::Number(_) if millis => integer(&value).map(|ms| ms.saturating_mul(1_000)),
                _ => None,
            };
            if at.is_none() {
                self.bad("expiresAt", "must be a time such as 2030-01-31T12:00:00Z");
            }
            at
        });
        (days, at)
    }
}

/// Collects a body. Its bytes, and the headers, which stay in memory meanwhile, are reserved until the reservation is
/// dropped.
pub(crate) async fn collect(
    headers: &HeaderMap,
    mut body: Body,
    context: &RequestContext,
) -> std::result::Result<(Vec<u8>, Reservation), RestError> {
    let exceeded = |exceeded: BudgetExceeded| Error::unavailable(exceeded.to_string());
    let header_bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let mut memory = context.connection().budget.reserve(header_bytes, context.budget_part()).map_err(exceeded)?;
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Error::invalid("body", "could not be read"))?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > MAX_BODY_BYTES {
            return Err(RestError::BodyTooLarge);
        }
        let length = bytes.len() + data.len();
        if length > bytes.capacity() {
            let capacity = length.max(bytes.capacity() * 2);
            memory.grow(capacity - bytes.capacity()).map_err(exceeded)?;
            bytes.reserve_exact(capacity - bytes.len());
        }
        bytes.extend_from_slice(data);
    }
    Ok((bytes, memory))
}

/// A whole number, however it is written: `7`, `7.0` or `0.7e1`. JSON does not distinguish integers from other numbers.
fn integer(value: &Value) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "within the bounds of exact floats")]
    let of_float = |float: f64| (float.fract() == 0.0 && float.abs() <= 9e15).then_some(float as i64);
    let large = || value.as_u64().map(|_| i64::MAX);
    value.as_i64().or_else(large).or_else(|| value.as_f64().and_then(of_float))
}

/// A whole number that is not negative.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| u64::try_from(integer(value)?).ok())
}

/// Reads a time in RFC 3339; rounded down to microseconds.
pub(crate) fn rfc3339(text: &str) -> Option<Micros> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(Micros::try_from(time.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(Micros::MAX))
}
