//! The request of a delivery: a JSON body, and the headers of the Standard Webhooks specification.

use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::{
    domain::{
        clock::{Micros, SECOND},
        event::Event,
        master_keys::MasterKeys,
        webhook::signing_versions,
    },
    json::{event::EventKey, time::Rfc3339},
    store::events::ClaimedDelivery,
};

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// The body: the same for every attempt.
pub fn body(event: &Event) -> Value {
    json!({
        "type": event.kind.webhook_type(),
        "timestamp": Rfc3339(event.id.at()),
        "data": EventKey::of(event),
    })
}

/// The headers of an attempt at `now`. Every attempt has the event's id, and a time and signatures of its own. None: the
/// newest secret derives from a master key that is no longer listed.
pub fn headers(
    master_keys: &MasterKeys,
    delivery: &ClaimedDelivery,
    body: &[u8],
    now: Micros,
) -> Option<[(HeaderName, HeaderValue); 3]> {
    let id = delivery.event.id.to_string();
    let timestamp = now.div_euclid(SECOND);
    let key = delivery.key;
    let sign = |version| master_keys.webhook_signature(key, version, &id, timestamp, body);
    let mut versions = signing_versions(delivery.webhook_version, delivery.former, now);
    let newest = versions.next().and_then(sign)?;
    // A former secret whose master key is no longer listed no longer signs.
    let signatures: Vec<String> = std::iter::once(newest).chain(versions.filter_map(sign)).collect();
    Some([
        (ID, HeaderValue::try_from(id.as_str()).ok()?),
        (TIMESTAMP, HeaderValue::from(timestamp)),
        (SIGNATURE, HeaderValue::try_from(signatures.join(" ")).ok()?),
    ])
}
