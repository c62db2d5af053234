//! Detects texts that were typed rather than generated at random.

/// Minimum number of different characters in a random text of 32 characters, unless its alphabet is tiny.
const MIN_DIFFERENT: usize = 16;
/// The same for hexadecimal digits: half of all random texts of 40 digits have fewer than 16 different ones, but only
/// one in a million has fewer than this.
const MIN_DIFFERENT_DIGITS: usize = 10;
/// Length from which a text of hexadecimal digits only needs [`MIN_DIFFERENT_DIGITS`].
const MIN_DIGITS: usize = 40;
/// The order of the letters on a keyboard.
const KEYBOARD: &str = "qwertyuiopasdfghjklzxcvbnm";

/// Why a text can be guessed; none if it looks random.
pub fn weakness(text: &str) -> Option<&'static str> {
    let bytes = text.as_bytes();
    if is_repetition(bytes) {
        return Some("is a repetition");
    }
    if is_sequence(bytes) {
        return Some("is a sequence");
    }
    let mut different = bytes.to_vec();
    different.sort_unstable();
    different.dedup();
    let long_hex = bytes.len() >= MIN_DIGITS && bytes.iter().all(u8::is_ascii_hexdigit);
    let min = if long_hex { MIN_DIFFERENT_DIGITS } else { MIN_DIFFERENT };
    (different.len() < min).then_some("has fewer than 16 different characters")
}

/// Whether the text repeats a part of itself; the last repetition may be cut off.
fn is_repetition(text: &[u8]) -> bool {
    (1..=text.len() / 2).any(|period| text.iter().zip(&text[period..]).all(|(one, other)| one == other))
}

/// Whether most characters are the neighbor of the previous one in the alphabet, in the digits or on a keyboard, in
/// either direction, or equal to it.
fn is_sequence(text: &[u8]) -> bool {
    let key = |byte: u8| KEYBOARD.bytes().position(|key| key == byte.to_ascii_lowercase());
    let follows = |pair: &&[u8]| {
        let (one, other) = (pair[0], pair[1]);
        let neighbours = key(one).zip(key(other)).is_some_and(|(one, other)| one.abs_diff(other) <= 1);
        one.abs_diff(other) <= 1 || neighbours || (one, other) == (b'9', b'0') || (one, other) == (b'0', b'9')
    };
    text.windows(2).filter(follows).count() * 2 > text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_was_typed_is_weak() {
        for (text, why) in [
            ("0123456789012345678901234567890123456789", "is a repetition"),
            ("correct-horse-battery-staple-correct-horse-battery-staple-corr", "is a repetition"),
            ("aB3$xY7!aB3$xY7!aB3$xY7!aB3$xY7!", "is a repetition"),
            ("abcdefghijklmnopqrstuvwxyz0123456789", "is a sequence"),
            ("zyxwvutsrqponmlkjihgfedcba9876543210", "is a sequence"),
            ("ABCDEFGHIJKLMNOPabcdefghijklmnop12", "is a sequence"),
            ("qwertyuiopasdfghjklzxcvbnmQWERTYUIOP", "is a sequence"),
            ("aaaaaaaabbbbbbbbccccccccddddddddeeeeeeee", "is a sequence"),
            ("a8f3a8c1f3e8c1a3e8f1c3a8e1f3c8a1", "has fewer than 16 different characters"),
            ("the-root-the-door-rot-here-o-to-the", "has fewer than 16 different characters"),
        ] {
            assert_eq!(weakness(text), Some(why), "{text}");
        }
    }

    #[test]
    fn a_random_text_is_not_weak() {
        use rand::{RngExt as _, SeedableRng as _};
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        for alphabet in ["abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/", "0123456789abcdef"] {
            let length = if alphabet.len() == 16 { 48 } else { 43 };
            for _ in 0..2_000 {
                let letters = alphabet.as_bytes();
                let text: String =
                    (0..length).map(|_| char::from(letters[random.random_range(0..letters.len())])).collect();
                assert_eq!(weakness(&text), None, "{text}");
            }
        }
    }
}
