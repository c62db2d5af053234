//! Secrets: generating, checking and digesting them.
//!
//! A secret is `prefix + body + checksum`. The checksum is keyed, so a forged or mistyped secret is refused without a
//! look-up.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{clock::Entropy, key::Digest, master_keys::MasterKeys};

/// Number of leading characters of a secret that are stored for display.
pub const DISPLAY_PREFIX_LEN: usize = 12;
/// Maximum length of a secret in bytes. Longer text is malformed and is not hashed.
pub(crate) const MAX_SECRET_LEN: usize = 256;
/// Maximum length of a prefix in bytes.
pub(crate) const MAX_PREFIX_LEN: usize = 32;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Number of checksum characters in an alphanumeric secret.
pub(crate) const CHECKSUM_CHARS: usize = 6;
/// Number of checksum bytes in a base64url secret, before encoding.
pub(crate) const CHECKSUM_BYTES: usize = 4;

/// A plaintext credential. It is zeroed on drop, and its `Debug` output is redacted.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps the text of a credential.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The plaintext.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// SHA-256 of a secret.
pub fn digest(text: &str) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(text.as_bytes());
    // The hasher holds a copy of the secret, which is zeroed where the hasher is dropped. Finish it in place: moving it
    // would leave another copy on the stack.
    Digest(hasher.finalize_reset().into())
}

/// The encoding of the part after the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `bytes` random bytes and 4 checksum bytes, in base64url without padding.
    Base64Url {
        /// Number of random bytes.
        bytes: usize,
    },
    /// `length` characters of `[0-9A-Za-z]`; the last 6 are the checksum.
    Alphanumeric {
        /// Number of characters after the prefix, including the checksum.
        length: usize,
    },
}

impl Encoding {
    /// Number of characters after the prefix.
    pub fn chars(self) -> usize {
        match self {
            Self::Base64Url { bytes } => BASE64URL_NOPAD.encode_len(bytes + CHECKSUM_BYTES),
            Self::Alphanumeric { length } => length,
        }
    }

    /// Number of random bits beyond the first [`DISPLAY_PREFIX_LEN`] characters, rounded down.
    pub(crate) fn hidden_bits(self, prefix: &str) -> usize {
        let shown = DISPLAY_PREFIX_LEN.saturating_sub(prefix.len());
        match self {
            Self::Base64Url { bytes } => (bytes * 8).saturating_sub(shown * 6),
            // log2(62) is slightly more than 5.954.
            Self::Alphanumeric { length } => {
                length.saturating_sub(CHECKSUM_CHARS).saturating_sub(shown) * 5_954 / 1_000
            }
        }
    }

    /// Generates a secret.
    pub fn generate(self, prefix: &str, master_keys: &MasterKeys, entropy: &dyn Entropy) -> Secret {
        let mut text = Zeroizing::new(String::with_capacity(prefix.len() + self.chars()));
        text.push_str(prefix);
        match self {
            Self::Base64Url { bytes } => {
                let mut body = Zeroizing::new(vec![0_u8; bytes + CHECKSUM_BYTES]);
                entropy.fill(&mut body[..bytes]);
                let mac = master_keys.checksum(prefix, &body[..bytes]);
                body[bytes..].copy_from_slice(&mac[..CHECKSUM_BYTES]);
                text.push_str(&Zeroizing::new(BASE64URL_NOPAD.encode(&body)));
            }
            Self::Alphanumeric { length } => {
                let body = random_base62(length.saturating_sub(CHECKSUM_CHARS), entropy);
                text.push_str(&body);
                for c in base62_checksum(&master_keys.checksum(prefix, body.as_bytes())) {
                    text.push(char::from(c));
                }
            }
        }
        Secret(text)
    }

    /// Whether this installation can have generated a secret of this prefix and this body, checksum included.
    pub(crate) fn accepts(self, prefix: &str, body: &str, master_keys: &MasterKeys) -> bool {
        if body.len() != self.chars() {
            return false;
        }
        match self {
            Self::Base64Url { bytes } => {
                // The decoder refuses non-zero trailing bits, so each body has exactly one encoding.
                let Ok(decoded) = BASE64URL_NOPAD.decode(body.as_bytes()).map(Zeroizing::new) else {
                    return false;
                };
                master_keys.verify_checksum(prefix, &decoded[..bytes], |mac| {
                    mac[..CHECKSUM_BYTES].ct_eq(&decoded[bytes..]).into()
                })
            }
            Self::Alphanumeric { length } => {
                if !body.bytes().all(|c| c.is_ascii_alphanumeric()) {
                    return false;
                }
                let (random, checksum) = body.as_bytes().split_at(length.saturating_sub(CHECKSUM_CHARS));
                master_keys.verify_checksum(prefix, random, |mac| base62_checksum(mac).ct_eq(checksum).into())
            }
        }
    }
}

/// Whether this installation issued `text`, under any prefix. Needs no keyspace, so that keys of a keyspace that is no
/// longer configured can be distinguished from forged ones.
pub fn issued_by(text: &str, master_keys: &MasterKeys) -> bool {
    if text.len() > MAX_SECRET_LEN {
        return false;
    }
    let bytes = text.as_bytes();
    // The checksum of an alphanumeric secret covers everything before it, wherever the prefix ends.
    let alphanumeric = bytes.split_last_chunk::<CHECKSUM_CHARS>().is_some_and(|(covered, checksum)| {
        master_keys.verify_checksum("", covered, |mac| base62_checksum(mac).ct_eq(checksum).into())
    });
    // The checksum of a base64url secret covers the decoded bytes, so every end of the prefix has to be tried.
    alphanumeric
        || (1..=MAX_PREFIX_LEN.min(bytes.len())).any(|end| {
            let decoded = BASE64URL_NOPAD.decode(&bytes[end..]).map(Zeroizing::new).unwrap_or_default();
            let (Some(prefix), Some((body, checksum))) =
                (text.get(..end), decoded.split_last_chunk::<CHECKSUM_BYTES>())
            else {
                return false;
            };
            !body.is_empty()
                && master_keys.verify_checksum(prefix, body, |mac| mac[..CHECKSUM_BYTES].ct_eq(checksum).into())
        })
}

/// Random characters, uniform over the alphabet: bytes beyond the alphabet are rejected, since a modulo would favour some
/// characters.
fn random_base62(length: usize, entropy: &dyn Entropy) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(length));
    let mut pool = Zeroizing::new([0_u8; 64]);
    while text.len() < length {
        entropy.fill(&mut pool[..]);
        for byte in pool.iter().map(|byte| usize::from(byte & 63)) {
            if byte < BASE62.len() && text.len() < length {
                text.push(char::from(BASE62[byte]));
            }
        }
    }
    text
}

fn base62_checksum(mac: &[u8; 32]) -> [u8; CHECKSUM_CHARS] {
    let mut value = mac[..8].iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let mut out = [0_u8; CHECKSUM_CHARS];
    for c in out.iter_mut().rev() {
        *c = BASE62[(value % 62) as usize];
        value /= 62;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{clock::SystemEntropy, master_keys::MasterKey};

    fn master_keys(byte: u8) -> MasterKeys {
        MasterKeys::derive(&MasterKey::new([byte; 32]))
    }

    fn encodings() -> impl Strategy<Value = Encoding> {
        prop_oneof![
            (16_usize..=64).prop_map(|bytes| Encoding::Base64Url { bytes }),
            (24_usize..=96).prop_map(|length| Encoding::Alphanumeric { length }),
        ]
    }

    fn body_of(secret: &Secret, prefix: &str) -> String {
        secret.expose().strip_prefix(prefix).unwrap().to_owned()
    }

    proptest! {
        #[test]
        fn a_generated_secret_is_accepted_by_its_own_installation_and_prefix_only(encoding in encodings()) {
            let secret = encoding.generate("ak_", &master_keys(1), &SystemEntropy);
            let body = body_of(&secret, "ak_");
            prop_assert_eq!(body.len(), encoding.chars());
            prop_assert!(encoding.accepts("ak_", &body, &master_keys(1)));
            prop_assert!(!encoding.accepts("ak_", &body, &master_keys(2)));
            prop_assert!(!encoding.accepts("bk_", &body, &master_keys(1)));
            // With several master keys, each one verifies.
            let both = MasterKeys::new(&MasterKey::new([2; 32]), &[MasterKey::new([1; 32])], &[]);
            prop_assert!(encoding.accepts("ak_", &body, &both) && issued_by(secret.expose(), &both));
        }

        #[test]
        fn a_generated_secret_is_recognized_as_issued_under_any_prefix(encoding in encodings(), prefix in "[a-z_]{1,32}") {
            let secret = encoding.generate(&prefix, &master_keys(1), &SystemEntropy);
            prop_assert!(issued_by(secret.expose(), &master_keys(1)));
            prop_assert!(!issued_by(secret.expose(), &master_keys(2)));
            prop_assert!(!issued_by(&secret.expose()[1..], &master_keys(1)));
        }

        #[test]
        fn arbitrary_text_is_not_recognized_as_issued(text: String) {
            prop_assert!(!issued_by(&text, &master_keys(1)));
        }

        #[test]
        fn a_secret_with_one_changed_character_is_refused(encoding in encodings(), index: prop::sample::Index, other in "[0-9A-Za-z_-]") {
            let secret = encoding.generate("ak_", &master_keys(1), &SystemEntropy);
            let mut body = body_of(&secret, "ak_");
            let at = index.index(body.len());
            prop_assume!(body[at..=at] != *other);
            body.replace_range(at..=at, &other);
            // The checksum has at least 32 bits, so a chance match in this many cases is one in tens of millions.
            prop_assert!(!encoding.accepts("ak_", &body, &master_keys(1)));
        }

        #[test]
        fn arbitrary_text_never_panics(encoding in encodings(), body: String) {
            prop_assert!(!encoding.accepts("ak_", &body, &master_keys(1)));
        }
    }

    #[test]
    fn random_characters_are_uniform_over_the_alphabet() {
        // Pearson's chi-squared test with 61 degrees of freedom: 130 is beyond the 99.9999th percentile.
        let mut seen = [0_u32; 62];
        let text = random_base62(620_000, &SystemEntropy);
        for byte in text.bytes() {
            seen[BASE62.iter().position(|c| *c == byte).unwrap()] += 1;
        }
        let chi: f64 = seen.iter().map(|n| (f64::from(*n) - 10_000.0).powi(2) / 10_000.0).sum();
        assert!(chi < 130.0, "chi-squared is {chi}");
    }

    #[test]
    fn the_uniformity_test_detects_a_biased_source() {
        /// Never yields some bytes.
        struct Biased;
        impl Entropy for Biased {
            fn fill(&self, out: &mut [u8]) {
                SystemEntropy.fill(out);
                for byte in out {
                    *byte %= 48;
                }
            }
        }
        let text = random_base62(62_000, &Biased);
        assert!(!text.bytes().any(|c| c == b'z'), "a biased source yields no z, which the test above detects");
    }

    #[test]
    fn the_debug_output_of_a_secret_is_redacted() {
        let secret = Secret::new("nrx_abc".to_owned());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn hidden_bits_exclude_the_displayed_characters() {
        assert_eq!(Encoding::Base64Url { bytes: 32 }.hidden_bits("nrx_"), 256 - 48);
        assert_eq!(Encoding::Alphanumeric { length: 32 }.hidden_bits("sk_test_"), 22 * 5_954 / 1_000);
        assert_eq!(Encoding::Alphanumeric { length: 32 }.hidden_bits("a_very_long_prefix_"), 26 * 5_954 / 1_000);
        assert_eq!(Encoding::Alphanumeric { length: 3 }.hidden_bits("a"), 0);
    }
}
