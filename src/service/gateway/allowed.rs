//! A request that may pass, and the headers that identify its caller to the upstream.

use std::{borrow::Cow, sync::Arc};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::{
    domain::{
        keyspace::{CredentialHeader, Keyspace},
        rate_limit::RateState,
        session::{OrgMembership, SessionCaller},
    },
    replica::cached_key::CachedKey,
};

/// The headers that identify the caller of a request to the upstream. All of them are always sent: if one were left
/// out, the client's own header of that name would reach the upstream.
pub const IDENTITY_HEADERS: [&str; 9] = [
    "x-keyward-key-id",
    "x-keyward-keyspace",
    "x-keyward-organization",
    "x-keyward-instance",
    "x-keyward-environment",
    "x-keyward-scopes",
    "x-keyward-name",
    "x-keyward-subject",
    "x-keyward-role",
];

/// The characters that are escaped in a header's value: all that are not visible ASCII, and `%`.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// A request that may pass.
#[derive(Debug)]
pub struct Allowed {
    keyspace: Arc<Keyspace>,
    caller: PassedCaller,
    /// The state of the key's rate limit, if it has one.
    pub rate: Option<RateState>,
    /// The header that held the credential; none if a cookie held it.
    credential_header: Option<CredentialHeader>,
}

/// The caller of a request that may pass.
#[derive(Debug)]
enum PassedCaller {
    Key(Arc<CachedKey>),
    Session(Arc<SessionCaller>, Option<OrgMembership>),
}

impl Allowed {
    pub(super) fn key(
        keyspace: Arc<Keyspace>,
        key: Arc<CachedKey>,
        rate: Option<RateState>,
        credential_header: CredentialHeader,
    ) -> Self {
        Self { keyspace, caller: PassedCaller::Key(key), rate, credential_header: Some(credential_header) }
    }

    pub(super) fn session(
        keyspace: Arc<Keyspace>,
        session: Arc<SessionCaller>,
        membership: Option<OrgMembership>,
        credential_header: Option<CredentialHeader>,
    ) -> Self {
        Self { keyspace, caller: PassedCaller::Session(session, membership), rate: None, credential_header }
    }

    /// The values of [`IDENTITY_HEADERS`], in their order; empty where there is no value.
    pub fn identity(&self) -> [Cow<'_, str>; 9] {
        let empty = || Cow::Borrowed("");
        let keyspace = escaped(&self.keyspace.name);
        match &self.caller {
            PassedCaller::Key(key) => [
                Cow::Owned(key.id.text()),
                keyspace,
                escaped(key.organization()),
                escaped(key.instance()),
                escaped(key.environment()),
                Cow::Borrowed(key.scope_list()),
                escaped(key.name()),
                empty(),
                empty(),
            ],
            PassedCaller::Session(session, own) => {
                let organization = own.as_ref().map_or("", |own| &own.organization);
                let role = own.as_ref().map_or("", |own| own.role.name());
                let subject = escaped(session.subject());
                let organization = escaped(organization);
                [empty(), keyspace, organization, empty(), empty(), empty(), empty(), subject, Cow::Borrowed(role)]
            }
        }
    }

    /// The header with the credential, if the keyspace is configured to remove it before the upstream.
    pub fn stripped(&self) -> Option<&'static str> {
        let credential_header = self.credential_header.filter(|_| self.keyspace.gateway.strip_credential)?;
        Some(match credential_header {
            CredentialHeader::XApiKey => "x-api-key",
            CredentialHeader::Bearer | CredentialHeader::Any => "authorization",
        })
    }
}

fn escaped(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, ESCAPED).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_visible_ascii_is_escaped_and_can_be_read_back() {
        for (text, expected) in [
            ("", ""),
            ("acme", "acme"),
            ("org_1.a-b:c/d\"'<>~,;=", "org_1.a-b:c/d\"'<>~,;="),
            ("CI of A", "CI%20of%20A"),
            ("100%", "100%25"),
            ("%41", "%2541"),
            ("a\r\nx: y", "a%0D%0Ax:%20y"),
            ("\0\t\u{7f}", "%00%09%7F"),
            ("Zoë", "Zo%C3%AB"),
        ] {
            assert_eq!(escaped(text), expected);
            assert_eq!(percent_encoding::percent_decode_str(&escaped(text)).decode_utf8().unwrap(), text);
        }
    }
}
