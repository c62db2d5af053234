//! Cross-site request forgery: a browser sends a cookie with the requests of any page. A request that changes something
//! must come from a page of this host.

use super::credential::Headers;
use crate::domain::error::{Error, Result};

/// Refuses a request that changes something, unless its headers show that a page of this host sent it. `host` is the
/// host that the request was sent to, in lower case; `secure` says whether it can only have come over TLS.
///
/// `Sec-Fetch-Site` decides if it is sent: no page can set it, and it is correct behind a proxy that changes `Host`.
/// Browsers send it over TLS only, and old ones do not send it at all; then `Origin` decides. A request without either
/// header is not from a page and must not use a cookie.
pub fn check(method: &str, headers: &impl Headers, host: Option<&str>, secure: bool) -> Result<()> {
    if matches!(method, "GET" | "HEAD") {
        return Ok(());
    }
    let sentence =
        "With a cookie, only a page of the same origin may change something; send the token as bearer instead";
    if is_same_origin(headers, host, secure) == Some(true) { Ok(()) } else { Err(Error::forbidden(sentence)) }
}

/// Whether a request comes from a page of this host; `None` if it has neither header.
pub fn is_same_origin(headers: &impl Headers, host: Option<&str>, secure: bool) -> Option<bool> {
    match (one(headers, "sec-fetch-site"), one(headers, "origin")) {
        (Some(site), _) => Some(site == "same-origin"),
        (None, Some(origin)) => Some(host.is_some_and(|host| is_origin_of(origin, host, secure))),
        (None, None) => None,
    }
}

/// Returns a header's value. An unreadable value, or more than one, gives an empty text, which matches nothing.
pub fn one<'a>(headers: &'a impl Headers, name: &'static str) -> Option<&'a str> {
    let mut values = headers.values(name);
    let first = values.next()?;
    Some(if values.next().is_some() { "" } else { str::from_utf8(first).unwrap_or_default() })
}

/// Whether an origin belongs to a host. Without TLS on this connection both schemes are possible: a proxy may have ended
/// TLS.
fn is_origin_of(origin: &str, host: &str, secure: bool) -> bool {
    let origin = origin.to_ascii_lowercase();
    let (named, port) = match (origin.strip_prefix("https://"), origin.strip_prefix("http://")) {
        (Some(named), _) => (named, ":443"),
        (None, Some(named)) if !secure => (named, ":80"),
        _ => return false,
    };
    let bare = |text: &str| text.strip_suffix(port).unwrap_or(text).to_owned();
    !named.is_empty() && bare(named) == bare(host)
}
