//! Finds the credential of a request.
//!
//! - A secret counts only in the header that the keyspace of its prefix reads. Where the request is about one keyspace, as
//!   at a gateway, only that keyspace's header is read.
//! - A secret of an unknown prefix counts only if no other credential does, in a header that some keyspace reads. The
//!   response is then MALFORMED, not MISSING_CREDENTIAL.
//! - A session token counts only on routes that accept sessions: as bearer, or in its issuer's cookie.
//! - Browsers send cookies with every request, so a cookie counts only if no header holds a credential that counts. The
//!   same holds for a session token as bearer where the keyspace reads another header.

use std::borrow::Cow;

use super::authenticate::Authenticator;
use crate::domain::{
    error::{Error, Result},
    keyspace::{CredentialHeader, Registry},
    text,
};

/// The headers of a request. Names are in lower case.
pub trait Headers {
    /// The values of a header, in their order.
    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]>;
}

/// The credential of a request.
pub enum Presented<'a> {
    /// The header that held it, and a secret.
    Secret(CredentialHeader, Cow<'a, str>),
    /// A session token as bearer.
    Token(Cow<'a, str>),
    /// Name of the cookie, and the session token in it.
    Cookie(&'a str, Cow<'a, str>),
}

/// Which credentials a route accepts.
#[derive(Debug, Clone, Copy)]
pub struct CredentialPolicy {
    /// Whether it accepts sessions.
    pub sessions: bool,
    /// The header of the only keyspace that the request is about; none if it may be about any.
    pub header: Option<CredentialHeader>,
}

/// Returns the token of an `Authorization` value, or `None` if the value has another scheme or no token.
pub fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = text::cut(value, b' ');
    let token = token?.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Finds the credential that counts.
///
/// # Errors
///
/// INVALID_ARGUMENT if two credentials count.
pub fn find<'a>(
    headers: &'a impl Headers,
    auth: &'a Authenticator,
    policy: CredentialPolicy,
) -> Result<Option<Presented<'a>>> {
    let bearers = headers.values("authorization").filter_map(|value| match lossy(value) {
        Cow::Borrowed(text) => bearer(text).map(Cow::Borrowed),
        Cow::Owned(text) => bearer(&text).map(|token| Cow::Owned(token.to_owned())),
    });
    let keys = headers.values("x-api-key").map(lossy);
    let presented =
        bearers.map(|text| (CredentialHeader::Bearer, text)).chain(keys.map(|text| (CredentialHeader::XApiKey, text)));

    let (mut found, mut unknown, mut elsewhere) = (None, None, None);
    for (header, text) in presented.filter(|(_, text)| !text.is_empty()) {
        let session = policy.sessions && header == CredentialHeader::Bearer && auth.is_session(&text);
        if policy.header.is_some_and(|expected| !expected.accepts(header)) {
            if session && elsewhere.is_some() {
                return Err(two_credentials());
            }
            elsewhere = session.then_some(Presented::Token(text)).or(elsewhere);
            continue;
        }
        let counts = match auth.registry.by_prefix(&text) {
            // The root credential counts as bearer only, whatever its prefix is.
            _ if auth.is_root(&text) => Some(header == CredentialHeader::Bearer),
            Some((keyspace, _)) => Some(keyspace.credential.accepts(header)),
            None => session.then_some(true),
        };
        match counts {
            Some(true) if found.is_some() => return Err(two_credentials()),
            Some(true) => {
                found = Some(if session { Presented::Token(text) } else { Presented::Secret(header, text) });
            }
            // The reserved keyspace reads bearer, so bearer is always read.
            None if auth.registry.all().iter().any(|keyspace| keyspace.credential.accepts(header)) => {
                unknown = unknown.or(Some(Presented::Secret(header, text)));
            }
            Some(false) | None => {}
        }
    }
    if found.is_none() {
        found = elsewhere;
    }
    if found.is_none() && policy.sessions {
        found = cookie(headers, auth)?;
    }
    Ok(found.or(unknown))
}

/// The secret of a request, if it is the only credential that can count where `header` is read: the same as [`find`] in
/// the common case, for code that supports neither sessions nor the root credential. None in every other case.
pub fn only_secret<'a>(
    headers: &'a impl Headers,
    registry: &Registry,
    header: CredentialHeader,
) -> Option<(CredentialHeader, &'a str)> {
    let tokens = headers.values("authorization").map(|value| (CredentialHeader::Bearer, value));
    let keys = headers.values("x-api-key").map(|value| (CredentialHeader::XApiKey, value));
    let mut presented = tokens.chain(keys).filter(|(_, value)| !value.is_empty());
    let (found, value) = presented.next()?;
    if presented.next().is_some() || !header.accepts(found) {
        return None;
    }
    let text = std::str::from_utf8(value).ok()?;
    let secret = if found == CredentialHeader::Bearer { bearer(text)? } else { text };
    let (keyspace, _) = registry.by_prefix(secret)?;
    keyspace.credential.accepts(found).then_some((found, secret))
}

/// [`String::from_utf8_lossy`], but faster for valid UTF-8.
fn lossy(value: &[u8]) -> Cow<'_, str> {
    str::from_utf8(value).map_or_else(|_| String::from_utf8_lossy(value), Cow::Borrowed)
}

fn two_credentials() -> Error {
    Error::invalid("authorization", "two credentials count in this request; send one")
}

/// Finds the cookie that an issuer reads.
fn cookie<'a>(headers: &'a impl Headers, auth: &'a Authenticator) -> Result<Option<Presented<'a>>> {
    let mut found = None;
    for value in headers.values("cookie") {
        // Compare bytes: a browser sends other cookies in the same header, and those may not be UTF-8.
        for pair in value.split(|byte| *byte == b';').map(<[u8]>::trim_ascii) {
            let Some(end) = pair.iter().position(|byte| *byte == b'=') else { continue };
            let (name, value) = (&pair[..end], &pair[end + 1..]);
            let Some(name) = auth.session_cookies().find(|known| known.as_bytes() == name) else { continue };
            let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
            if value.is_empty() {
                continue;
            }
            // A sibling host can set a cookie of the same name. It cannot be decided which one is right, so refuse
            // both.
            if found.is_some() {
                return Err(Error::invalid("cookie", "two session cookies count in this request; send one"));
            }
            found = Some(Presented::Cookie(name, lossy(value)));
        }
    }
    Ok(found)
}
