//! A token in its compact form (RFC 7515), parsed but not yet verified.

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::domain::oidc::Algorithm;

/// Maximum size of a token. Browsers do not store cookies above 4 KiB.
const MAX_TOKEN_BYTES: usize = 8 << 10;

/// A parsed token. Nothing in it may be trusted before its signature is verified.
pub struct Token<'a> {
    /// The signature algorithm that the header names.
    pub algorithm: Algorithm,
    /// The key id that the header names.
    pub key_id: Option<String>,
    /// The claims.
    pub claims: Map<String, Value>,
    /// The signed text: header and claims.
    pub message: &'a str,
    /// The signature in base64url.
    pub signature: &'a str,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

impl<'a> Token<'a> {
    /// Whether a credential is formatted like a token: three parts with dots between them.
    pub fn has_form(credential: &str) -> bool {
        credential.bytes().filter(|byte| *byte == b'.').count() == 2
    }

    /// Parses a token; none if it is malformed, of another type, or needs an extension that is not supported.
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_TOKEN_BYTES || !Self::has_form(text) {
            return None;
        }
        let (message, signature) = text.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let header: Header = serde_json::from_slice(&BASE64URL_NOPAD.decode(header.as_bytes()).ok()?).ok()?;
        // Issuers also sign other kinds of tokens, such as logout tokens, which must not count as sessions.
        let kind = header.typ.unwrap_or_else(|| "JWT".to_owned()).to_ascii_lowercase();
        let kind = kind.strip_prefix("application/").unwrap_or(&kind);
        if !matches!(kind, "jwt" | "at+jwt") || header.crit.is_some() {
            return None;
        }
        let claims = serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?).ok()?;
        Some(Self { algorithm: Algorithm::named(&header.alg)?, key_id: header.kid, claims, message, signature })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn token(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        format!("{}.{}.c2ln", part(header), part(claims))
    }

    #[test]
    fn a_token_is_parsed_into_its_parts() {
        let text = token(&json!({"alg": "ES256", "kid": "k", "typ": "at+jwt"}), &json!({"sub": "s"}));
        let token = Token::parse(&text).unwrap();
        assert_eq!((token.algorithm, token.key_id.as_deref()), (Algorithm::Es256, Some("k")));
        assert_eq!((&token.claims["sub"], token.signature), (&json!("s"), "c2ln"));
        assert_eq!(format!("{}.{}", token.message, token.signature), text);
    }

    #[test]
    fn a_malformed_or_unsupported_token_is_rejected() {
        let claims = json!({"sub": "s"});
        assert!(Token::parse(&token(&json!({"alg": "RS256"}), &claims)).is_some());
        for header in [
            json!({"alg": "none"}),
            json!({"alg": "HS256"}),
            json!({"alg": "rs256"}),
            json!({"alg": "RS256", "crit": ["exp"]}),
            json!({"alg": "RS256", "typ": "logout+jwt"}),
            json!({"alg": "RS256", "kid": 1}),
            json!({}),
            json!([]),
        ] {
            assert!(Token::parse(&token(&header, &claims)).is_none(), "{header}");
        }
        let header = json!({"alg": "RS256"});
        for claims in [json!([]), json!("s"), json!(null)] {
            assert!(Token::parse(&token(&header, &claims)).is_none(), "{claims}");
        }
        let long = "x".repeat(MAX_TOKEN_BYTES);
        for text in [
            &token(&header, &json!({"sub": long})),
            "",
            "..",
            "a.b",
            "a.b.c",
            "a.b.c.d",
            &token(&header, &json!({})).replacen('.', "=.", 1),
        ] {
            assert!(Token::parse(text).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "[ -~]{0,40}\\.[A-Za-z0-9_-]{0,80}\\.[ -~]{0,20}") {
            let _ = Token::parse(&text);
        }
    }
}
