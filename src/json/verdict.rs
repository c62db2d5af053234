//! Verdicts in JSON, as the JSON mapping of the proto writes them.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use utoipa::{
    ToSchema,
    openapi::{Object, Ref, Schema, Type, schema::AnyOfBuilder},
};

use super::{one_of, time::Rfc3339};
use crate::domain::{clock::SECOND, rate_limit::RateState, verdict::VerdictCode};

/// What identifies the key is null for MALFORMED and NOT_FOUND.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct VerifyResponse<'a> {
    #[schema(schema_with = code)]
    pub(crate) code: &'static str,
    /// The verdict in words: the sentence of the error with this code, to pass on.
    pub(crate) message: Cow<'static, str>,
    /// The key's id.
    #[schema(required)]
    pub(crate) key_id: Option<String>,
    /// Its keyspace.
    #[schema(required)]
    pub(crate) keyspace: Option<&'a str>,
    /// Its organization.
    #[schema(required)]
    pub(crate) organization: Option<&'a str>,
    /// Its instance.
    #[schema(required)]
    pub(crate) instance: Option<&'a str>,
    /// Its environment.
    #[schema(required)]
    pub(crate) environment: Option<&'a str>,
    /// Its name.
    #[schema(required)]
    pub(crate) name: Option<&'a str>,
    /// What it may do.
    pub(crate) scopes: Vec<&'a str>,
    /// When it was made.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub(crate) create_time: Option<Rfc3339>,
    /// When it stops being valid.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub(crate) expire_time: Option<Rfc3339>,
    /// Free-form pairs.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub(crate) metadata: Pairs<'a>,
    #[schema(required, schema_with = rate_limit)]
    pub(crate) rate_limit: Option<RateLimitState>,
}

/// Pairs as an object, in their order.
#[derive(Debug, Default)]
pub(crate) struct Pairs<'a>(pub(crate) Vec<(&'a str, &'a str)>);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RateLimitState {
    /// Calls in any span of one window.
    limit: u32,
    /// What may still be spent.
    remaining: u32,
    /// When remaining next grows.
    #[schema(value_type = String, format = DateTime)]
    reset_time: Rfc3339,
    /// How long until the same cost would be admitted; null if it was, or never can be.
    #[schema(required, pattern = r"^[0-9]+\.[0-9]+s$")]
    retry_after: Option<String>,
}

impl From<RateState> for RateLimitState {
    fn from(state: RateState) -> Self {
        Self {
            limit: state.limit,
            remaining: state.remaining,
            // Rounded up to a millisecond: `remaining` must have grown by then.
            reset_time: Rfc3339(state.reset_at.saturating_add(999)),
            retry_after: state.retry_after.map(|wait| format!("{}.{:06}s", wait / SECOND, wait % SECOND)),
        }
    }
}

/// Schema of a verdict's code.
fn code() -> Object {
    one_of(VerdictCode::ALL.map(VerdictCode::name), Some("The verdict."))
}

fn rate_limit() -> Schema {
    AnyOfBuilder::new()
        .item(Ref::from_schema_name("RateLimitState"))
        .item(Object::with_type(Type::Null))
        .description(Some("Where its limit stands; null without one, and for a verdict that did not come that far."))
        .build()
        .into()
}
