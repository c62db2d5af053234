//! An issuer's public keys (RFC 7517).

use std::sync::Arc;

use jsonwebtoken::{AlgorithmFamily, DecodingKey, crypto, jwk::Jwk};
use serde::Deserialize;
use serde_json::Value;

use super::token::Token;
use crate::domain::oidc::Algorithm;

/// Keys of one issuer, at most.
const KEYS: usize = 64;

/// A public key that signs tokens.
pub struct VerifyingKey {
    id: Option<String>,
    /// The one algorithm that it is for; none if it may be for any of its family.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

impl VerifyingKey {
    /// Reads a key; none if it does not sign, or not in a way that is known here.
    fn read(jwk: Value) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let signs = text("use").is_none_or(|what| what == "sig");
        let operations = jwk.get("key_ops").and_then(Value::as_array);
        let verifies = operations.is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        let known = match text("kty") {
            Some("RSA") => true,
            Some("EC") => matches!(text("crv"), Some("P-256" | "P-384")),
            Some("OKP") => text("crv") == Some("Ed25519"),
            // A symmetric key that is public would be everybody's.
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

    fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|only| only == algorithm) && self.key.family() == family(algorithm)
    }

    /// Whether this key has signed the token, with the algorithm that the token names.
    pub fn signed(&self, token: &Token<'_>) -> bool {
        self.fits(token.algorithm)
            && crypto::verify(token.signature, token.message.as_bytes(), &self.key, wire(token.algorithm))
                .unwrap_or(false)
    }
}

/// The keys of one issuer; at least one.
pub struct KeySet(Vec<Arc<VerifyingKey>>);

impl KeySet {
    /// Reads a document. Keys that are not known here are left out.
    ///
    /// # Errors
    ///
    /// Why there is no key in it, for the log.
    pub fn parse(document: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document = serde_json::from_slice(document).map_err(|error| format!("no key set: {error}"))?;
        let keys: Vec<_> = document.keys.into_iter().take(KEYS).filter_map(VerifyingKey::read).map(Arc::new).collect();
        if keys.is_empty() { Err("the key set has no key that can be used".to_owned()) } else { Ok(Self(keys)) }
    }

    /// The key of this id; without one, the only key for the algorithm.
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&Arc<VerifyingKey>> {
        let mut fitting = self.0.iter().filter(|key| key.fits(algorithm));
        match id {
            Some(_) => fitting.find(|key| key.id.as_deref() == id),
            None => fitting.next().filter(|_| fitting.next().is_none()),
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

fn wire(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
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
    fn the_standards_own_example_is_signed_by_its_key_and_no_changed_one_is() {
        let keys = set(&[rsa(&json!({}))]).unwrap();
        let token = Token::parse(SIGNED).unwrap();
        let key = keys.find(None, token.algorithm).unwrap();
        assert!(key.signed(&token));
        for changed in [SIGNED.replacen("eyJpc3Mi", "eyJpc3Ni", 1), SIGNED.replacen("cC4hi", "cC4hj", 1)] {
            assert!(!Token::parse(&changed).is_some_and(|token| key.signed(&token)), "{changed}");
        }
        let (message, _) = SIGNED.rsplit_once('.').unwrap();
        assert!(!key.signed(&Token::parse(&format!("{message}.")).unwrap()), "no signature at all");
    }

    #[test]
    fn a_key_is_found_by_its_id_for_its_own_algorithm_only() {
        let keys = [rsa(&json!({"kid": "a", "alg": "RS256"})), rsa(&json!({"kid": "b", "use": "sig"}))];
        let keys = set(&keys).unwrap();
        let found = |id: Option<&str>, algorithm| keys.find(id, algorithm).and_then(|key| key.id.as_deref());
        assert_eq!(found(Some("a"), Algorithm::Rs256), Some("a"));
        assert_eq!(found(Some("b"), Algorithm::Ps384), Some("b"));
        assert_eq!(found(Some("a"), Algorithm::Ps256), None);
        assert_eq!(found(Some("a"), Algorithm::Es256), None);
        assert_eq!(found(Some("c"), Algorithm::Rs256), None);
        assert_eq!(found(None, Algorithm::Rs256), None, "two would fit");
        assert_eq!(found(None, Algorithm::Rs512), Some("b"), "one fits");
    }

    #[test]
    fn keys_that_cannot_be_used_are_left_out_and_spoil_no_others() {
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
