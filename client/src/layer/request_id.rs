//! The id of a request, which its response and its log lines carry.

use std::hash::{BuildHasher as _, RandomState};

use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The digits of an id: RFC 4648's base 32 in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The request's own id if it is safe to repeat, or a new one. An id that contains the secret is replaced, because ids
/// are logged.
pub(super) fn of(headers: &HeaderMap, secret: Option<&str>) -> HeaderValue {
    let safe = |text: &str| {
        (1..=128).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte))
            && !secret.is_some_and(|secret| text.contains(secret))
    };
    match headers.get(&REQUEST_ID) {
        Some(id) if id.to_str().is_ok_and(safe) => id.clone(),
        _ => new(),
    }
}

fn new() -> HeaderValue {
    // Each state has keys of its own, which the operating system's randomness has seeded. An id is no secret.
    let random = u128::from(RandomState::new().hash_one(0)) << 64 | u128::from(RandomState::new().hash_one(1));
    let digits: String = (0..24).map(|index| char::from(ALPHABET[(random >> (5 * index)) as usize & 31])).collect();
    HeaderValue::try_from(format!("req_{digits}")).unwrap_or_else(|_| HeaderValue::from_static("req_unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(id: &[u8], secret: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
        of(&headers, secret) == headers[REQUEST_ID]
    }

    #[test]
    fn a_safe_id_is_kept_and_any_other_is_replaced() {
        assert!(kept(b"abc-1:2_3.4", None));
        assert!(!kept(b"", None) && !kept(b"a b", None) && !kept(b"\xff", None) && !kept(&[b'a'; 129], None));
        assert!(kept(b"trace-1", Some("ak_secret")) && !kept(b"trace-ak_secret", Some("ak_secret")));
        let [first, second] = [(); 2].map(|()| of(&HeaderMap::new(), None));
        assert_ne!(first, second);
        assert_eq!(first.len(), 28);
    }
}
