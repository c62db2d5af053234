//! Bearer tokens in `Authorization` headers and metadata.

/// Returns the token of an `Authorization` value, or `None` if the value has another scheme or no token.
pub fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
