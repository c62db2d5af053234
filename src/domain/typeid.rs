//! TypeIDs: a UUID with a prefix that names its type, as text (`key_01h455vb4pex5vsknk084sn02q`).
//!
//! Source: the TypeID specification, <https://github.com/jetify-com/typeid/tree/main/spec>.

use uuid::Uuid;

/// Number of characters after the prefix.
pub(super) const DIGITS: usize = 26;
/// Crockford's base 32 in lower case.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Formats a UUID.
pub(super) fn format(prefix: &str, id: Uuid) -> String {
    let mut text = String::with_capacity(prefix.len() + DIGITS);
    text.push_str(prefix);
    // All of them are ASCII. One copy: a character at a time takes a twentieth of a check in a stream.
    text.push_str(str::from_utf8(&digits(id)).unwrap_or_default());
    text
}

/// The digits after the prefix.
pub(super) fn digits(id: Uuid) -> [u8; DIGITS] {
    let value = id.as_u128();
    std::array::from_fn(|at| ALPHABET[(value >> (5 * (DIGITS - 1 - at))) as usize & 31])
}

/// Parses a TypeID with this prefix; `None` if the text is not one.
pub(super) fn parse(prefix: &str, text: &str) -> Option<Uuid> {
    let digits = text.strip_prefix(prefix)?.as_bytes();
    // 26 digits hold 130 bits, so the first digit of a UUID is at most 7.
    if digits.len() != DIGITS || digits[0] > b'7' {
        return None;
    }
    let mut value = 0_u128;
    for byte in digits {
        let digit = ALPHABET.iter().position(|c| c == byte)?;
        value = value << 5 | digit as u128;
    }
    Some(Uuid::from_u128(value))
}
