//! Finds the credential of a request.
//!
//! - A secret counts only in the header that the keyspace of its prefix reads.
//! - A secret of an unknown prefix counts only if nothing else does, in a header that some keyspace reads. The response
//!   is then that it is malformed, not that it is missing.
//! - A session token counts only on routes that accept sessions: as bearer, or in its issuer's cookie.
//! - Browsers send cookies with every request, so a cookie counts only if no header holds a credential that counts.

use std::borrow::Cow;

use http::{HeaderMap, header};

use crate::{
    domain::{
        error::{Error, Result},
        keyspace::CredentialHeader,
    },
    service::Services,
    transport::bearer::bearer,
};

/// The credential of a request.
pub(crate) enum Presented<'a> {
    Secret(Cow<'a, str>),
    /// A session token as bearer.
    Token(Cow<'a, str>),
    /// Name of the cookie, and the session token in it.
    Cookie(&'a str, Cow<'a, str>),
}

/// Finds the credential that counts. `sessions` says whether the route accepts sessions.
///
/// # Errors
///
/// INVALID_ARGUMENT if two credentials count.
pub(crate) fn find<'a>(headers: &'a HeaderMap, service: &'a Services, sessions: bool) -> Result<Option<Presented<'a>>> {
    let bearers = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| {
        let text = String::from_utf8_lossy(value.as_bytes());
        match text {
            Cow::Borrowed(text) => bearer(text).map(Cow::Borrowed),
            Cow::Owned(text) => bearer(&text).map(|token| Cow::Owned(token.to_owned())),
        }
    });
    let keys = headers.get_all("x-api-key").iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let presented =
        bearers.map(|text| (CredentialHeader::Bearer, text)).chain(keys.map(|text| (CredentialHeader::XApiKey, text)));

    let (mut known, mut unknown) = (None, None);
    for (place, text) in presented.filter(|(_, text)| !text.is_empty()) {
        let session = sessions && place == CredentialHeader::Bearer && service.auth.is_session(&text);
        let counts = match service.registry.by_prefix(&text) {
            // The root credential counts as bearer only, whatever its prefix is.
            _ if service.auth.is_root(&text) => Some(place == CredentialHeader::Bearer),
            Some((keyspace, _)) => Some(keyspace.credential.accepts(place)),
            None => session.then_some(true),
        };
        match counts {
            Some(true) if known.is_some() => {
                return Err(Error::invalid("authorization", "two credentials count in this request; send one"));
            }
            Some(true) => known = Some(if session { Presented::Token(text) } else { Presented::Secret(text) }),
            // The reserved keyspace reads bearer, so bearer is always read.
            None if service.registry.all().iter().any(|keyspace| keyspace.credential.accepts(place)) => {
                unknown = unknown.or(Some(Presented::Secret(text)));
            }
            Some(false) | None => {}
        }
    }
    if known.is_none() && sessions {
        known = cookie(headers, service)?;
    }
    Ok(known.or(unknown))
}

/// Finds the cookie that an issuer reads.
fn cookie<'a>(headers: &'a HeaderMap, service: &'a Services) -> Result<Option<Presented<'a>>> {
    let mut found = None;
    for value in headers.get_all(header::COOKIE) {
        // As bytes: other cookies may hold anything, and a browser sends them in the same header.
        for pair in value.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii) {
            let Some(end) = pair.iter().position(|byte| *byte == b'=') else { continue };
            let (name, value) = (&pair[..end], &pair[end + 1..]);
            let Some(name) = service.auth.session_cookies().find(|known| known.as_bytes() == name) else { continue };
            let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
            if value.is_empty() {
                continue;
            }
            // A sibling host can set a cookie of the same name. Which one is the right one cannot be known.
            if found.is_some() {
                return Err(Error::invalid("cookie", "two session cookies count in this request; send one"));
            }
            found = Some(Presented::Cookie(name, String::from_utf8_lossy(value)));
        }
    }
    Ok(found)
}
