//! The JSON form of keys, events, deliveries and verdicts, which REST and webhooks share. The OpenAPI document is made
//! from the same types: a comment on a field is its description there. A field without a value is null.

pub(crate) mod delivery;
pub(crate) mod event;
pub(crate) mod identity;
pub(crate) mod key;
pub(crate) mod time;
pub(crate) mod verdict;

use utoipa::openapi::{Object, ObjectBuilder, Type};

/// Returns a text, or `None` (null in JSON) if it is empty.
pub(crate) fn text(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// Schema of a string that is one of `names`.
fn one_of(names: impl IntoIterator<Item = &'static str>, description: Option<&str>) -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).description(description).build()
}
