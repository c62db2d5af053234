//! Which part of a request holds the secret.

use http::{HeaderMap, HeaderName, header};

use super::denial::Denial;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The header that a keyspace's keys are sent in, as the keyspace's setting `credential` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialHeader {
    /// `Authorization: Bearer …`.
    Bearer,
    /// `X-API-Key: …`.
    XApiKey,
    /// Either, but not both.
    Any,
}

impl CredentialHeader {
    /// The secret of a request. Other headers are ignored.
    ///
    /// # Errors
    ///
    /// None is there; two are; or it is not text, and so no secret.
    pub(super) fn secret(self, headers: &HeaderMap) -> Result<&str, Denial> {
        let mut found: Option<&[u8]> = None;
        let mut add = |value| match found.replace(value) {
            None => Ok(()),
            Some(_) => Err(Denial::SeveralCredentials),
        };
        if self != Self::XApiKey {
            for value in headers.get_all(header::AUTHORIZATION) {
                if let Some(token) = bearer(value.as_bytes()) {
                    add(token)?;
                }
            }
        }
        if self != Self::Bearer {
            for value in headers.get_all(X_API_KEY).iter().filter(|value| !value.is_empty()) {
                add(value.as_bytes())?;
            }
        }
        let secret = found.ok_or(Denial::MissingCredential)?;
        std::str::from_utf8(secret).map_err(|_| Denial::NotText)
    }

    /// Removes every header that a secret of this keyspace may be in.
    pub(super) fn strip(self, headers: &mut HeaderMap) {
        if self != Self::XApiKey {
            headers.remove(header::AUTHORIZATION);
        }
        if self != Self::Bearer {
            headers.remove(X_API_KEY);
        }
    }
}

/// The token of an `Authorization` value; none if it has another scheme, or no token.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let space = value.iter().position(|&byte| byte == b' ')?;
    let (scheme, token) = (&value[..space], value[space..].trim_ascii());
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_secret_counts_only_in_the_header_of_its_keyspace() {
        use CredentialHeader::{Any, Bearer, XApiKey};
        let bearer = [("authorization", "bEaReR  ak_1 ")];
        let key = [("x-api-key", "ak_2")];
        for (setting, pairs, expected) in [
            (Bearer, &bearer, Some("ak_1")),
            (Bearer, &key, None),
            (XApiKey, &bearer, None),
            (XApiKey, &key, Some("ak_2")),
            (Any, &bearer, Some("ak_1")),
            (Any, &key, Some("ak_2")),
            (Bearer, &[("authorization", "Basic ak_1")], None),
            (Bearer, &[("authorization", "Bearer")], None),
            (Bearer, &[("authorization", "Bearer ")], None),
            (XApiKey, &[("x-api-key", "")], None),
        ] {
            let headers = headers(pairs);
            assert_eq!(setting.secret(&headers).ok(), expected, "{setting:?} {pairs:?}");
        }
    }

    #[test]
    fn two_secrets_are_refused_and_foreign_headers_change_nothing() {
        use CredentialHeader::{Any, Bearer, XApiKey};
        let both = headers(&[("authorization", "Bearer ak_1"), ("x-api-key", "ak_2")]);
        assert!(matches!(Any.secret(&both), Err(Denial::SeveralCredentials)));
        assert_eq!((Bearer.secret(&both).ok(), XApiKey.secret(&both).ok()), (Some("ak_1"), Some("ak_2")));
        let twice = headers(&[("authorization", "Bearer ak_1"), ("authorization", "Bearer ak_2")]);
        assert!(matches!(Bearer.secret(&twice), Err(Denial::SeveralCredentials)));
        let mut stripped = both;
        XApiKey.strip(&mut stripped);
        assert!(stripped.contains_key("authorization") && !stripped.contains_key("x-api-key"));
    }
}
