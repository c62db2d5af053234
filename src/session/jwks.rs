//! The public keys of an issuer (RFC 7517).

use std::sync::Arc;

use jsonwebtoken::{AlgorithmFamily, DecodingKey, crypto, jwk::Jwk};
use serde::Deserialize;
use serde_json::Value;

use super::token::Token;
use crate::domain::oidc::Algorithm;

/// Maximum number of keys that are read from one document.
const MAX_KEYS: usize = 64;

/// A public key that signs tokens.
pub struct VerifyingKey {
    id: Option<String>,
    /// The only algorithm that the key is for; none: every algorithm of its family.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

impl VerifyingKey {
    /// Reads a key; none if it is not for signatures, or its kind or algorithm is not supported.
    fn read(jwk: Value) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let signs = text("use").is_none_or(|what| what == "sig");
        let operations = jwk.get("key_ops").and_then(Value::as_array);
        let verifies = operations.is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        let known = match text("kty") {
            Some("RSA") => true,
            Some("EC") => matches!(text("crv"), Some("P-256" | "P-384")),
            Some("OKP") => text("crv") == Some("Ed25519"),
            // Everybody could sign with a symmetric key that is published.
            _ => false,
        };
        let algorithm = match text("alg") {
            Some(name) => Some(Algorithm::named(name)?),
            None => None,
        };
        if !(signs && verifies && known) {
            return None;
        }
        let id = text("kid").map(str::to_owned);
        let jwk: Jwk = serde_json::from_value(jwk).ok()?;
        Some(Self { id, algorithm, key: DecodingKey::from_jwk(&jwk).ok()? })
    }

    fn supports(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|only| only == algorithm) && self.key.family() == family(algorithm)
    }

    /// Whether the token's signature is this key's, by the algorithm that the token names.
    pub fn verifies(&self, token: &Token<'_>) -> bool {
        self.supports(token.algorithm)
            && crypto::verify(token.signature, token.message.as_bytes(), &self.key, library_algorithm(token.algorithm))
                .unwrap_or(false)
    }
}

/// The keys of one issuer: at least one.
pub struct KeySet(Vec<Arc<VerifyingKey>>);

impl KeySet {
    /// Parses a document. Keys that are not supported are skipped.
    ///
    /// # Errors
    ///
    /// The reason, for the log: the document is malformed, or has no supported key.
    pub fn parse(document: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document = serde_json::from_slice(document).map_err(|error| format!("no key set: {error}"))?;
        let keys: Vec<_> =
            document.keys.into_iter().take(MAX_KEYS).filter_map(VerifyingKey::read).map(Arc::new).collect();
        if keys.is_empty() { Err("the key set has no key that can be used".to_owned()) } else { Ok(Self(keys)) }
    }

    /// The key with this id. A token without an id needs the only key that supports its algorithm.
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&Arc<VerifyingKey>> {
        let mut candidates = self.0.iter().filter(|key| key.supports(algorithm));
        match id {
            Some(_) => candidates.find(|key| key.id.as_deref() == id),
            None => candidates.next().filter(|_| candidates.next().is_none()),
        }
    }
}

fn family(algorithm: Algorithm) -> AlgorithmFamily {
    match algorithm {
        Algorithm::Rs256
        | Algorithm::Rs384
        | Algorithm::Rs512
        | Algorithm::Ps256
        | Algorithm::Ps384
        | Algorithm::Ps512 => AlgorithmFamily::Rsa,
        Algorithm::Es256 | Algorithm::Es384 => AlgorithmFamily::Ec,
        Algorithm::EdDsa => AlgorithmFamily::Ed,
    }
}

fn library_algorithm(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::Rs384 => jsonwebtoken::Algorithm::RS384,
        Algorithm::Rs512 => jsonwebtoken::Algorithm::RS512,
        Algorithm::Ps256 => jsonwebtoken::Algorithm::PS256,
        Algorithm::Ps384 => jsonwebtoken::Algorithm::PS384,
        Algorithm::Ps512 => jsonwebtoken::Algorithm::PS512,
        Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::Es384 => jsonwebtoken::Algorithm::ES384,
        Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// RFC 7515, appendix A.2: this key signed this token.
    const N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-\
                     pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapH\
                     g665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4F\
                     RWyuXpoQ";
    const SIGNED: &str = "eyJhbGciOiJSUzI1NiJ9.\
                          eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                          cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7\
                          t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi\
                          12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypG\
                          lUPQGe77Rw";

    fn rsa(more: &Value) -> Value {
        let mut key = json!({"kty": "RSA", "n": N, "e": "AQAB"});
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        key
    }

    fn set(keys: &[Value]) -> Result<KeySet, String> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn the_example_of_rfc_7515_is_verified_and_no_changed_one_is() {
        let keys = set(&[rsa(&json!({}))]).unwrap();
        let token = Token::parse(SIGNED).unwrap();
        let key = keys.find(None, token.algorithm).unwrap();
        assert!(key.verifies(&token));
        for changed in [SIGNED.replacen("eyJpc3Mi", "eyJpc3Ni", 1), SIGNED.replacen("cC4hi", "cC4hj", 1)] {
            assert!(!Token::parse(&changed).is_some_and(|token| key.verifies(&token)), "{changed}");
        }
        let (message, _) = SIGNED.rsplit_once('.').unwrap();
        assert!(!key.verifies(&Token::parse(&format!("{message}.")).unwrap()), "no signature at all");
    }

    #[test]
    fn a_key_is_found_by_its_id_and_only_for_its_own_algorithm() {
        let keys = [rsa(&json!({"kid": "a", "alg": "RS256"})), rsa(&json!({"kid": "b", "use": "sig"}))];
        let keys = set(&keys).unwrap();
        let found = |id: Option<&str>, algorithm| keys.find(id, algorithm).and_then(|key| key.id.as_deref());
        assert_eq!(found(Some("a"), Algorithm::Rs256), Some("a"));
        assert_eq!(found(Some("b"), Algorithm::Ps384), Some("b"));
        assert_eq!(found(Some("a"), Algorithm::Ps256), None);
        assert_eq!(found(Some("a"), Algorithm::Es256), None);
        assert_eq!(found(Some("c"), Algorithm::Rs256), None);
        assert_eq!(found(None, Algorithm::Rs256), None, "two keys support it");
        assert_eq!(found(None, Algorithm::Rs512), Some("b"), "one key supports it");
    }

    #[test]
    fn unsupported_keys_are_skipped_and_the_others_are_used() {
        let unusable = [
            json!({"kty": "oct", "k": "c2VjcmV0", "kid": "symmetric"}),
            rsa(&json!({"kid": "x", "use": "enc"})),
            rsa(&json!({"kid": "x", "alg": "RSA-OAEP"})),
            rsa(&json!({"kid": "x", "key_ops": ["encrypt"]})),
            json!({"kty": "OKP", "crv": "X25519", "x": "AAAA", "kid": "x"}),
            json!({"kty": "EC", "crv": "secp256k1", "x": "AAAA", "y": "AAAA"}),
            json!({"kty": "RSA", "kid": "no modulus"}),
            json!("no key"),
        ];
        assert!(set(&unusable).is_err());
        let mut keys = unusable.to_vec();
        keys.push(rsa(&json!({"kid": "good"})));
        assert!(set(&keys).unwrap().find(Some("good"), Algorithm::Rs256).is_some());
        for document in ["", "[]", "{}", "{\"keys\": {}}", "{\"keys\": []}"] {
            assert!(KeySet::parse(document.as_bytes()).is_err(), "{document}");
        }
    }
}
