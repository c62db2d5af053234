//! Which secret of a request counts.
//!
//! A secret counts only in the header that the keyspace of its prefix reads. One of no known prefix counts only when
//! nothing else does, in a header that some keyspace reads: so it is answered as malformed rather than as absent.

use std::borrow::Cow;

use http::{HeaderMap, header};

use crate::{
    domain::{
        error::{Error, Result},
        keyspace::Credential,
    },
    service::Service,
    transport::calls::bearer,
};

/// The secret that counts; none if there is none.
///
/// # Errors
///
/// INVALID_ARGUMENT if two count.
pub fn find<'a>(headers: &'a HeaderMap, service: &Service) -> Result<Option<Cow<'a, str>>> {
    let bearers = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| {
        let text = String::from_utf8_lossy(value.as_bytes());
        match text {
            Cow::Borrowed(text) => bearer(text).map(Cow::Borrowed),
            Cow::Owned(text) => bearer(&text).map(|token| Cow::Owned(token.to_owned())),
        }
    });
    let keys = headers.get_all("x-api-key").iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let presented = bearers.map(|text| (Credential::Bearer, text)).chain(keys.map(|text| (Credential::XApiKey, text)));

    let (mut known, mut unknown) = (None, None);
    for (place, text) in presented.filter(|(_, text)| !text.is_empty()) {
        let counts = match service.registry.by_prefix(&text) {
            // Operators use bearer, whatever their credential begins with.
            _ if service.is_root(&text) => Some(place == Credential::Bearer),
            Some((keyspace, _)) => Some(keyspace.credential.reads(place)),
            None => None,
        };
        match counts {
            Some(true) if known.is_some() => {
                return Err(Error::invalid("authorization", "two credentials count in this request; send one"));
            }
            Some(true) => known = Some(text),
            // The reserved keyspace reads bearer, so that always counts as read.
            None if service.registry.all().iter().any(|keyspace| keyspace.credential.reads(place)) => {
                unknown = unknown.or(Some(text));
            }
            Some(false) | None => {}
        }
    }
    Ok(known.or(unknown))
}
