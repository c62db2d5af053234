//! Deliveries of events in JSON.

use serde::Serialize;
use utoipa::ToSchema;

use super::time::Rfc3339;

// No doc comment: it would become a description where the schema is inlined.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Pending,
    Delivered,
    Failed,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Delivery<'a> {
    pub(crate) event_id: String,
    pub(crate) key_id: String,
    /// Host and port of the webhook when the event happened.
    pub(crate) host: &'a str,
    #[schema(inline)]
    pub(crate) state: State,
    /// Attempts begun, those before a redelivery among them.
    pub(crate) attempts: i64,
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub(crate) next_attempt_at: Option<Rfc3339>,
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub(crate) last_attempt_at: Option<Rfc3339>,
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub(crate) settled_at: Option<Rfc3339>,
    #[schema(required)]
    pub(crate) last_status: Option<i64>,
    #[schema(required)]
    pub(crate) last_error: Option<&'a str>,
    /// The beginning of the last answer's body, at most 1 KiB; null for any caller but an operator.
    #[schema(required)]
    pub(crate) last_response: Option<&'a str>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deliveries<'a> {
    pub(crate) deliveries: Vec<Delivery<'a>>,
}
