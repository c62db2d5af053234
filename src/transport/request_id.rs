//! Request ids: kept if a client or a proxy sends a safe one, otherwise made.

use crate::{domain::clock::Entropy, service::Services};

/// Header of the request id.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// The id of a request: its own if it is safe to repeat, or a new one.
pub(crate) fn choose(incoming: Option<&[u8]>, service: &Services) -> String {
    choose_unless(incoming, |id| service.auth.holds_credential(id), &*service.entropy)
}

/// Like [`choose`], with another test for ids that contain a credential.
pub(crate) fn choose_unless(
    incoming: Option<&[u8]>,
    holds_credential: impl Fn(&str) -> bool,
    entropy: &dyn Entropy,
) -> String {
    let incoming = incoming.and_then(|value| str::from_utf8(value).ok());
    let safe = incoming.filter(|id| is_safe(id) && !holds_credential(id));
    safe.map_or_else(|| new_id(entropy), str::to_owned)
}

fn is_safe(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-' | b':'))
}

/// Makes a request id.
pub(crate) fn new_id(entropy: &dyn Entropy) -> String {
    let mut random = [0; 15];
    entropy.fill(&mut random);
    format!("req_{}", data_encoding::BASE32_NOPAD.encode(&random).to_ascii_lowercase())
}
