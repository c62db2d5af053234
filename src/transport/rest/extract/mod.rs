//! Extractors: what a handler needs of a request, checked before the handler runs.

pub(crate) mod body;
pub(crate) mod caller;
pub(crate) mod credential;
pub(crate) mod csrf;
pub(crate) mod fields;
pub(crate) mod path;
pub(crate) mod query;
pub(crate) mod strict_json;
