//! Secrets: how they are made, parsed and digested.
//!
//! A secret is `prefix + body + checksum`. The checksum is keyed, so a forged or mistyped secret is refused with no
//! look-up.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{clock::Entropy, key::Digest, master_keys::MasterKeys};

/// How many characters of a secret are kept for display.
pub const DISPLAY_PREFIX_LEN: usize = 12;
/// No secret is longer than this, in bytes; longer text is malformed without being hashed.
pub const MAX_SECRET_LEN: usize = 256;
/// No prefix is longer than this, in bytes.
pub const MAX_PREFIX_LEN: usize = 32;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Characters of checksum in an alphanumeric secret.
pub const CHECKSUM_CHARS: usize = 6;
/// Bytes of checksum in a base64url secret, before encoding.
pub const CHECKSUM_BYTES: usize = 4;

/// A plaintext credential. It is wiped when dropped and does not print.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text as it was presented.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself, for the one place that shows it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// SHA-256 of a secret's text.
pub fn digest(text: &str) -> Digest {
    Digest(Sha256::digest(text.as_bytes()).into())
}

/// What follows the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `bytes` random bytes and 4 of checksum, in base64url without padding.
    Base64Url {
        /// Random bytes.
        bytes: usize,
    },
    /// `length` characters of `[0-9A-Za-z]`, the last 6 of which are the checksum.
    Alphanumeric {
        /// Characters after the prefix, the checksum among them.
        length: usize,
    },
}

impl Encoding {
    /// How many characters follow the prefix.
    pub fn chars(self) -> usize {
        match self {
            Self::Base64Url { bytes } => BASE64URL_NOPAD.encode_len(bytes + CHECKSUM_BYTES),
            Self::Alphanumeric { length } => length,
        }
    }

    /// Random bits that a display of the first [`DISPLAY_PREFIX_LEN`] characters leaves hidden, rounded down.
    pub fn hidden_bits(self, prefix: &str) -> usize {
        let shown = DISPLAY_PREFIX_LEN.saturating_sub(prefix.len());
        match self {
            Self::Base64Url { bytes } => (bytes * 8).saturating_sub(shown * 6),
            // log2(62) is a little over 5.954.
            Self::Alphanumeric { length } => {
                length.saturating_sub(CHECKSUM_CHARS).saturating_sub(shown) * 5_954 / 1_000
            }
        }
    }

    /// Makes a secret.
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

    /// Whether `body`, which followed `prefix`, is one that this installation could have made.
    pub fn accepts(self, prefix: &str, body: &str, master_keys: &MasterKeys) -> bool {
        if body.len() != self.chars() {
            return false;
        }
        match self {
            Self::Base64Url { bytes } => {
                // Refuses non-zero trailing bits, so each body has one spelling only.
                let Ok(decoded) = BASE64URL_NOPAD.decode(body.as_bytes()).map(Zeroizing::new) else {
                    return false;
                };
                master_keys
                    .checks(prefix, &decoded[..bytes], |mac| mac[..CHECKSUM_BYTES].ct_eq(&decoded[bytes..]).into())
            }
            Self::Alphanumeric { length } => {
                if !body.bytes().all(|c| c.is_ascii_alphanumeric()) {
                    return false;
                }
                let (random, checksum) = body.as_bytes().split_at(length.saturating_sub(CHECKSUM_CHARS));
                master_keys.checks(prefix, random, |mac| base62_checksum(mac).ct_eq(checksum).into())
            }
        }
    }
}

/// Whether this installation made `text`, under whatever prefix. It asks for no keyspace, and so tells the keys of one that
/// is no longer configured from what nobody made.
pub fn issued_by(text: &str, master_keys: &MasterKeys) -> bool {
    if text.len() > MAX_SECRET_LEN {
        return false;
    }
    let bytes = text.as_bytes();
    // The checksum of characters covers all before it, wherever the prefix ends.
    let characters = bytes.split_last_chunk::<CHECKSUM_CHARS>().is_some_and(|(covered, checksum)| {
        master_keys.checks("", covered, |mac| base62_checksum(mac).ct_eq(checksum).into())
    });
    // That of bytes covers them before they are encoded: where the prefix ends makes a difference.
    characters
        || (1..=MAX_PREFIX_LEN.min(bytes.len())).any(|end| {
            let decoded = BASE64URL_NOPAD.decode(&bytes[end..]).map(Zeroizing::new).unwrap_or_default();
            let (Some(prefix), Some((body, checksum))) =
                (text.get(..end), decoded.split_last_chunk::<CHECKSUM_BYTES>())
            else {
                return false;
            };
            !body.is_empty() && master_keys.checks(prefix, body, |mac| mac[..CHECKSUM_BYTES].ct_eq(checksum).into())
        })
}

/// Uniform over the alphabet: a byte that would favour some characters is thrown away.
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
        fn what_is_generated_parses_and_another_installation_refuses_it(encoding in encodings()) {
            let secret = encoding.generate("ak_", &master_keys(1), &SystemEntropy);
            let body = body_of(&secret, "ak_");
            prop_assert_eq!(body.len(), encoding.chars());
            prop_assert!(encoding.accepts("ak_", &body, &master_keys(1)));
            prop_assert!(!encoding.accepts("ak_", &body, &master_keys(2)));
            prop_assert!(!encoding.accepts("bk_", &body, &master_keys(1)));
            // In a list, each key verifies.
            let both = MasterKeys::new(&MasterKey::new([2; 32]), &[MasterKey::new([1; 32])], &[]);
            prop_assert!(encoding.accepts("ak_", &body, &both) && issued_by(secret.expose(), &both));
        }

        #[test]
        fn what_is_generated_is_known_as_made_here_under_any_prefix(encoding in encodings(), prefix in "[a-z_]{1,32}") {
            let secret = encoding.generate(&prefix, &master_keys(1), &SystemEntropy);
            prop_assert!(issued_by(secret.expose(), &master_keys(1)));
            prop_assert!(!issued_by(secret.expose(), &master_keys(2)));
            prop_assert!(!issued_by(&secret.expose()[1..], &master_keys(1)));
        }

        #[test]
        fn arbitrary_text_was_not_made_here(text: String) {
            prop_assert!(!issued_by(&text, &master_keys(1)));
        }

        #[test]
        fn one_changed_character_never_parses(encoding in encodings(), place: prop::sample::Index, other in "[0-9A-Za-z_-]") {
            let secret = encoding.generate("ak_", &master_keys(1), &SystemEntropy);
            let mut body = body_of(&secret, "ak_");
            let at = place.index(body.len());
            prop_assume!(body[at..=at] != *other);
            body.replace_range(at..=at, &other);
            // A keyed checksum of 32 or more bits: a chance hit within this many cases is one in tens of millions.
            prop_assert!(!encoding.accepts("ak_", &body, &master_keys(1)));
        }

        #[test]
        fn arbitrary_text_never_panics(encoding in encodings(), body: String) {
            prop_assert!(!encoding.accepts("ak_", &body, &master_keys(1)));
        }
    }

    #[test]
    fn bodies_are_uniform_over_their_alphabet() {
        // Pearson's chi-squared with 61 degrees of freedom: 130 is past the 99.9999th percentile.
        let mut seen = [0_u32; 62];
        let text = random_base62(620_000, &SystemEntropy);
        for byte in text.bytes() {
            seen[BASE62.iter().position(|c| *c == byte).unwrap()] += 1;
        }
        let chi: f64 = seen.iter().map(|n| (f64::from(*n) - 10_000.0).powi(2) / 10_000.0).sum();
        assert!(chi < 130.0, "chi-squared is {chi}");
    }

    #[test]
    fn a_biased_source_would_show() {
        /// Every byte below 128 twice as likely in its low half.
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
        assert!(!text.bytes().any(|c| c == b'z'), "the test above can tell such a source from a good one");
    }

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret::new("nrx_abc".to_owned());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn hidden_bits_leave_out_what_is_shown() {
        assert_eq!(Encoding::Base64Url { bytes: 32 }.hidden_bits("nrx_"), 256 - 48);
        assert_eq!(Encoding::Alphanumeric { length: 32 }.hidden_bits("sk_test_"), 22 * 5_954 / 1_000);
        assert_eq!(Encoding::Alphanumeric { length: 32 }.hidden_bits("a_very_long_prefix_"), 26 * 5_954 / 1_000);
        assert_eq!(Encoding::Alphanumeric { length: 3 }.hidden_bits("a"), 0);
    }
}
