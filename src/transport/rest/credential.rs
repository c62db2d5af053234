//! Which credential of a request counts.
//!
//! A secret counts only in the header that the keyspace of its prefix reads. One of no known prefix counts only when
//! nothing else does, in a header that some keyspace reads: so it is answered as malformed rather than as absent.
//! A session's token counts only on routes that take sessions: as bearer, or in its issuer's cookie. A cookie goes along
//! unasked, and so counts only where nothing was presented that counts.

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

/// What a request presents.
pub enum Presented<'a> {
    /// A secret.
    Secret(Cow<'a, str>),
    /// A session's token, as bearer.
    Token(Cow<'a, str>),
    /// A session's token in the cookie of this name.
    Cookie(&'a str, Cow<'a, str>),
}

/// What counts; none if nothing does. `sessions`: whether the route takes them.
///
/// # Errors
///
/// INVALID_ARGUMENT if two count.
pub fn find<'a>(headers: &'a HeaderMap, service: &'a Services, sessions: bool) -> Result<Option<Presented<'a>>> {
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
            // Operators use bearer, whatever their credential begins with.
            _ if service.auth.is_root(&text) => Some(place == CredentialHeader::Bearer),
            Some((keyspace, _)) => Some(keyspace.credential.accepts(place)),
            None => session.then_some(true),
        };
        match counts {
            Some(true) if known.is_some() => {
                return Err(Error::invalid("authorization", "two credentials count in this request; send one"));
            }
            Some(true) => known = Some(if session { Presented::Token(text) } else { Presented::Secret(text) }),
            // The reserved keyspace reads bearer, so that always counts as read.
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

/// The one cookie that an issuer reads.
fn cookie<'a>(headers: &'a HeaderMap, service: &'a Services) -> Result<Option<Presented<'a>>> {
    let mut found = None;
    for value in headers.get_all(header::COOKIE) {
        let Ok(text) = value.to_str() else { continue };
        for (name, value) in text.split(';').filter_map(|pair| pair.trim().split_once('=')) {
            let Some(name) = service.auth.session_cookies().find(|known| *known == name) else { continue };
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
            if value.is_empty() {
                continue;
            }
            // A neighbouring host can set a cookie of the same name beside the right one: neither is to be guessed.
            if found.is_some() {
                return Err(Error::invalid("cookie", "two session cookies count in this request; send one"));
            }
            found = Some(Presented::Cookie(name, value.into()));
        }
    }
    Ok(found)
}
