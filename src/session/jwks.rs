//! The public keys of an issuer (RFC 7517).

use jsonwebtoken::{AlgorithmFamily, DecodingKey, crypto, jwk::Jwk};
use serde::Deserialize;
use serde_json::Value;

use super::token::Token;
use crate::domain::oidc::Algorithm;

/// Maximum number of keys that are used of one document. A token without a key id is tried with each of them that
/// supports its algorithm, so this also bounds the cost of an unauthenticated token.
const MAX_KEYS: usize = 256;
/// Maximum number of skipped keys that the log names.
const MAX_LOGGED: usize = 20;
/// Maximum number of characters of a key's id in the log.
const MAX_LOGGED_ID: usize = 64;

/// A public key that signs tokens.
pub struct VerifyingKey {
    id: Option<String>,
    /// The only algorithm that the key is for; none: every algorithm of its family.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

impl VerifyingKey {
    /// Reads a key.
    ///
    /// # Errors
    ///
    /// Why it cannot be used, for the log.
    fn read(jwk: &Value) -> Result<Self, &'static str> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|what| what != "sig") {
            return Err("is not for signatures");
        }
        let operations = jwk.get("key_ops").and_then(Value::as_array);
        if operations.is_some_and(|operations| operations.iter().all(|operation| operation != "verify")) {
            return Err("is not for signatures");
        }
        let members: &[&str] = match (text("kty"), text("crv")) {
            (Some("RSA"), _) => &["n", "e"],
            (Some("EC"), Some("P-256" | "P-384")) => &["crv", "x", "y"],
            (Some("OKP"), Some("Ed25519")) => &["crv", "x"],
            // A published symmetric key would let anybody sign.
            (Some("oct"), _) => return Err("is symmetric"),
            _ => return Err("is of a kind that is not supported"),
        };
        let algorithm = match text("alg") {
            Some(name) => Some(Algorithm::named(name).ok_or("is for an algorithm that is not supported")?),
            None => None,
        };
        // Parse only the key material, so that other members that the library does not support do not cause an error.
        let material =
            members.iter().chain(&["kty"]).filter_map(|name| Some(((*name).to_owned(), jwk.get(name)?.clone())));
        let jwk: Option<Jwk> = serde_json::from_value(Value::Object(material.collect())).ok();
        let key = jwk.and_then(|jwk| DecodingKey::from_jwk(&jwk).ok()).ok_or("cannot be read")?;
        if algorithm.is_some_and(|algorithm| key.family() != family(algorithm)) {
            return Err("is of another kind than its algorithm");
        }
        Ok(Self { id: text("kid").map(str::to_owned), algorithm, key })
    }

    fn supports(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|only| only == algorithm) && self.key.family() == family(algorithm)
    }

    /// Whether this key verifies the token's signature, by the algorithm that the token names.
    fn verifies(&self, token: &Token<'_>) -> bool {
        self.supports(token.algorithm)
            && crypto::verify(token.signature, token.message.as_bytes(), &self.key, library_algorithm(token.algorithm))
                .unwrap_or(false)
    }
}

/// The result of checking a token with a set of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// One of the keys signed it.
    Verified,
    /// None of the keys that it may be signed with did.
    Wrong,
    /// There is no key that it may be signed with.
    NoKey,
}

/// The keys of one issuer: at least one.
pub struct KeySet {
    keys: Vec<VerifyingKey>,
    /// Keys that are not used, and why, for the log; empty if all are used.
    pub skipped: String,
}

impl KeySet {
    /// Parses a document. Keys that cannot be used are skipped.
    ///
    /// # Errors
    ///
    /// The reason, for the log: the document is malformed, or has no key that can be used.
    pub fn parse(document: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document = serde_json::from_slice(document).map_err(|error| format!("no key set: {error}"))?;
        let (mut keys, mut skipped, mut count) = (Vec::new(), Vec::new(), 0_usize);
        for jwk in &document.keys {
            let read = if keys.len() < MAX_KEYS { VerifyingKey::read(jwk) } else { Err("is one too many") };
            match read {
                Ok(key) => keys.push(key),
                Err(why) => {
                    count += 1;
                    if skipped.len() < MAX_LOGGED {
                        skipped.push(format!("{} {why}", shown_id(jwk)));
                    }
                }
            }
        }
        if count > skipped.len() {
            skipped.push(format!("and {} more", count - skipped.len()));
        }
        let skipped = skipped.join(", ");
        if keys.is_empty() {
            return Err(format!("the key set has no key that can be used: {skipped}"));
        }
        Ok(Self { keys, skipped })
    }

    /// Tries a token with every key that may have signed it: those with its key id, and those without any. Providers use an
    /// id for several keys, and again for a new key. A token without an id may be signed with every key.
    pub fn check(&self, token: &Token<'_>) -> Signature {
        let named = token.key_id.as_deref();
        let fits = |key: &&VerifyingKey| named.is_none() || key.id.is_none() || key.id.as_deref() == named;
        let mut candidates = self.keys.iter().filter(fits).filter(|key| key.supports(token.algorithm)).peekable();
        if candidates.peek().is_none() {
            Signature::NoKey
        } else if candidates.any(|key| key.verifies(token)) {
            Signature::Verified
        } else {
            Signature::Wrong
        }
    }
}

/// How the log names a key.
fn shown_id(jwk: &Value) -> String {
    match jwk.get("kid").and_then(Value::as_str) {
        Some(id) => format!("\"{}\"", id.chars().take(MAX_LOGGED_ID).collect::<String>().escape_debug()),
        None => "a key without an id".to_owned(),
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

    fn check(keys: &[Value], token: &str) -> Signature {
        set(keys).unwrap().check(&Token::parse(token).unwrap())
    }

    #[test]
    fn the_example_of_rfc_7515_is_verified_and_no_changed_one_is() {
        let keys = set(&[rsa(&json!({}))]).unwrap();
        assert_eq!(keys.check(&Token::parse(SIGNED).unwrap()), Signature::Verified);
        for changed in [SIGNED.replacen("eyJpc3Mi", "eyJpc3Ni", 1), SIGNED.replacen("cC4hi", "cC4hj", 1)] {
            let accepted = Token::parse(&changed).is_some_and(|token| keys.check(&token) == Signature::Verified);
            assert!(!accepted, "{changed}");
        }
        let (message, _) = SIGNED.rsplit_once('.').unwrap();
        let unsigned = format!("{message}.");
        assert_eq!(keys.check(&Token::parse(&unsigned).unwrap()), Signature::Wrong, "no signature at all");
    }

    /// RFC 8037, appendix A.4: Ed25519.
    const ED: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    const ED_SIGNED: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6\
                             dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

    #[test]
    fn a_key_is_tried_only_by_its_own_algorithm_and_id() {
        for (key, expected) in [
            (json!({}), Signature::Verified),
            (json!({"alg": "RS256"}), Signature::Verified),
            (json!({"kid": "a", "use": "sig", "key_ops": ["verify"]}), Signature::Verified),
            (json!({"alg": "RS512"}), Signature::NoKey),
            (json!({"alg": "PS256"}), Signature::NoKey),
        ] {
            assert_eq!(check(&[rsa(&key)], SIGNED), expected, "{key}");
        }
        let with_id = |id: &str| {
            let header =
                data_encoding::BASE64URL_NOPAD.encode(json!({"alg": "RS256", "kid": id}).to_string().as_bytes());
            let (_, rest) = SIGNED.split_once('.').unwrap();
            format!("{header}.{rest}")
        };
        // The header is part of the signed text, so these signatures are wrong; the test is whether a key is tried.
        for (id, expected) in [("a", Signature::Wrong), ("b", Signature::NoKey), ("A", Signature::NoKey)] {
            assert_eq!(check(&[rsa(&json!({"kid": "a"}))], &with_id(id)), expected, "{id}");
        }
        assert_eq!(check(&[rsa(&json!({}))], &with_id("b")), Signature::Wrong, "a key without an id may be meant");
    }

    #[test]
    fn ed25519_is_known_by_its_old_and_its_new_name() {
        let payload_is_no_json = Token {
            algorithm: Algorithm::EdDsa,
            key_id: None,
            claims: serde_json::Map::new(),
            message: ED_SIGNED.rsplit_once('.').unwrap().0,
            signature: ED_SIGNED.rsplit_once('.').unwrap().1,
        };
        for more in [json!({}), json!({"alg": "EdDSA"}), json!({"alg": "Ed25519"})] {
            let mut key = json!({"kty": "OKP", "crv": "Ed25519", "x": ED});
            key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert_eq!(set(&[key]).unwrap().check(&payload_is_no_json), Signature::Verified, "{more}");
        }
        for name in ["EdDSA", "Ed25519"] {
            let header = data_encoding::BASE64URL_NOPAD.encode(json!({"alg": name}).to_string().as_bytes());
            assert_eq!(Token::parse(&format!("{header}.e30.c2ln")).unwrap().algorithm, Algorithm::EdDsa);
        }
    }

    /// Sets as providers serve them: many keys, of every kind, with ids that are missing, repeated, or reused.
    #[test]
    fn the_key_is_found_in_every_set_that_holds_it() {
        let wrong = |more: &Value| {
            let mut key = rsa(more);
            key["n"] = N.replacen("ofgW", "ofgX", 1).into();
            key
        };
        let hundred: Vec<Value> = (0..100).map(|number| wrong(&json!({"kid": format!("key-{number}")}))).collect();
        let good = rsa(&json!({"kid": "key-7"}));
        let strange = [
            json!({"kty": "AKP", "alg": "ML-DSA-44", "kid": "post-quantum", "pub": "AAAA"}),
            json!({"kty": "EC", "crv": "P-521", "alg": "ES512", "kid": "p521", "x": "AAAA", "y": "AAAA"}),
            rsa(&json!({"kid": "certified", "x5c": ["MII"], "x5t#S256": "AAAA", "nbf": 1, "issuer": "x", "n": 7})),
            json!({"kty": "OKP", "crv": "Ed448", "alg": "Ed448"}),
        ];
        for keys in [
            [&hundred[..], std::slice::from_ref(&good)].concat(),
            [std::slice::from_ref(&good), &hundred[..]].concat(),
            [&strange[..], std::slice::from_ref(&good)].concat(),
            vec![wrong(&json!({"kid": "key-7"})), good.clone(), wrong(&json!({}))],
            vec![wrong(&json!({"kid": "key-7", "alg": "RS256"})), rsa(&json!({"x5c": ["MII"], "x5t": 1, "ext": true}))],
        ] {
            assert_eq!(check(&keys, SIGNED), Signature::Verified, "{} keys", keys.len());
        }
        let too_many: Vec<Value> = (0..=MAX_KEYS).map(|_| wrong(&json!({}))).collect();
        let set = set(&too_many).unwrap();
        assert_eq!((set.keys.len(), set.skipped.as_str()), (MAX_KEYS, "a key without an id is one too many"));
    }

    #[test]
    fn unsupported_keys_are_skipped_and_named_and_the_others_are_used() {
        let unusable = [
            (json!({"kty": "oct", "k": "c2VjcmV0", "kid": "symmetric"}), "\"symmetric\" is symmetric"),
            (rsa(&json!({"kid": "x", "use": "enc"})), "\"x\" is not for signatures"),
            (rsa(&json!({"kid": "x", "alg": "RSA-OAEP"})), "\"x\" is for an algorithm that is not supported"),
            (rsa(&json!({"kid": "x", "key_ops": ["encrypt"]})), "\"x\" is not for signatures"),
            (rsa(&json!({"kid": "x", "alg": "ES256"})), "\"x\" is of another kind than its algorithm"),
            (
                json!({"kty": "OKP", "crv": "X25519", "x": "AAAA"}),
                "a key without an id is of a kind that is not supported",
            ),
            (json!({"kty": "EC", "crv": "secp256k1", "kid": "\n"}), "\"\\n\" is of a kind that is not supported"),
            (json!({"kty": "RSA", "kid": "no modulus"}), "\"no modulus\" cannot be read"),
            (json!("no key"), "a key without an id is of a kind that is not supported"),
        ];
        let all: Vec<Value> = unusable.iter().map(|(key, _)| key.clone()).collect();
        assert!(set(&all).err().unwrap().starts_with("the key set has no key that can be used: \"symmetric\""));
        for (key, why) in unusable {
            let set = set(&[key, rsa(&json!({}))]).unwrap();
            assert_eq!((set.check(&Token::parse(SIGNED).unwrap()), set.skipped.as_str()), (Signature::Verified, why));
        }
        let many: Vec<Value> = (0..30).map(|_| json!({"kty": "oct"})).chain([rsa(&json!({}))]).collect();
        assert!(set(&many).unwrap().skipped.ends_with(", and 10 more"));
        for document in ["", "[]", "{}", "{\"keys\": {}}", "{\"keys\": []}"] {
            assert!(KeySet::parse(document.as_bytes()).is_err(), "{document}");
        }
    }
}
