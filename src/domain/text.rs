//! Text that people read and that keys are bound to: which characters it may hold, and when two texts are equal.
//!
//! Two texts that look alike may be different bytes, and a text may hold characters that cannot be seen. A name that is
//! shown in a list or written to a log must not hide anything, and an organization must be the same one however an editor
//! or a file system spells it. Tables are those of Unicode, in the version of the `icu_properties` crate.

use std::borrow::Cow;

use icu_normalizer::{ComposingNormalizer, DecomposingNormalizer};
use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{
        CanonicalCombiningClass, DefaultIgnorableCodePoint, EmojiModifier, ExtendedPictographic, GeneralCategory,
        JoiningType,
    },
};

const ZERO_WIDTH_NON_JOINER: char = '\u{200c}';
const ZERO_WIDTH_JOINER: char = '\u{200d}';
/// Unicode classifies it as a symbol, but it is displayed as an empty cell.
const BRAILLE_BLANK: char = '\u{2800}';

/// The text in Unicode normalization form C, in which texts are stored and compared.
pub fn normalized(text: &str) -> Cow<'_, str> {
    if text.is_ascii() { text.into() } else { ComposingNormalizer::new_nfc().normalize(text) }
}

/// The text in Unicode normalization form D, in which it may have been stored before texts were normalized.
pub(crate) fn decomposed(text: &str) -> Cow<'_, str> {
    if text.is_ascii() { text.into() } else { DecomposingNormalizer::new_nfd().normalize(text) }
}

/// Normalizes a text in place.
pub(crate) fn normalize(text: &mut String) {
    if let Cow::Owned(normalized) = normalized(text) {
        *text = normalized;
    }
}

/// Whether two texts are equal. Texts that were stored before they were normalized are compared like any other.
pub fn same(one: &str, other: &str) -> bool {
    one == other || (!one.is_ascii() && !other.is_ascii() && normalized(one) == normalized(other))
}

/// The part of a text before the first separator, which is ASCII, and what follows it; none if there is no separator. Looks
/// at each byte: in a text as short as a header or a path, `str::split`, which prepares a search for each part, takes
/// several times as long.
pub(crate) fn cut(text: &str, separator: u8) -> (&str, Option<&str>) {
    debug_assert!(separator.is_ascii());
    let end = text.bytes().position(|byte| byte == separator).unwrap_or(text.len());
    let (part, rest) = text.split_at(end);
    (part, rest.get(1..))
}

/// All parts between separators, as `str::split` finds them.
pub(crate) fn parts(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let (part, after) = cut(rest?, separator);
        rest = after;
        Some(part)
    })
}

/// Why a text must not be stored as a name; `None` if it may. An empty text is valid.
pub(crate) fn problem(text: &str) -> Option<&'static str> {
    if text.contains(char::is_control) {
        return Some("must not hold control characters");
    }
    if text.bytes().all(|byte| matches!(byte, b'!'..=b'~')) {
        return None;
    }
    let chars: Vec<char> = text.chars().collect();
    if (0..chars.len()).any(|at| !allowed(&chars, at)) {
        return Some("must not hold characters that cannot be seen, or that Unicode does not assign");
    }
    let visible = chars.is_empty() || chars.iter().any(|c| is_visible(*c));
    (!visible).then_some("must hold a character that can be seen")
}

/// Whether a character is one that controls how others are shown, or ends a line.
pub(crate) fn is_format(c: char) -> bool {
    matches!(
        CodePointMapData::<GeneralCategory>::new().get(c),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    )
}

/// Whether the character at a position is allowed there.
fn allowed(chars: &[char], at: usize) -> bool {
    let c = chars[at];
    match c {
        ZERO_WIDTH_JOINER => joins_emoji(chars, at) || follows_virama(chars, at),
        ZERO_WIDTH_NON_JOINER => follows_virama(chars, at) || breaks_cursive(chars, at),
        // They select the appearance of the preceding character, as in a coloured emoji.
        _ if is_variation_selector(c) => at > 0 && is_visible(chars[at - 1]),
        _ => {
            let category = CodePointMapData::<GeneralCategory>::new().get(c);
            let hidden = matches!(
                category,
                GeneralCategory::Control
                    | GeneralCategory::Format
                    | GeneralCategory::PrivateUse
                    | GeneralCategory::Unassigned
                    | GeneralCategory::LineSeparator
                    | GeneralCategory::ParagraphSeparator
            );
            !hidden && !is_ignorable(c)
        }
    }
}

fn is_visible(c: char) -> bool {
    !c.is_whitespace() && c != BRAILLE_BLANK && !is_ignorable(c)
}

/// Whether a character is invisible where it has no effect, such as the Hangul filler.
fn is_ignorable(c: char) -> bool {
    CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

fn is_variation_selector(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{180b}'..='\u{180d}' | '\u{180f}' | '\u{e0100}'..='\u{e01ef}')
}

/// Whether the joiner at a position is between two emoji, which it makes one.
fn joins_emoji(chars: &[char], at: usize) -> bool {
    let pictographic = CodePointSetData::new::<ExtendedPictographic>();
    let modifier = CodePointSetData::new::<EmojiModifier>();
    let before = chars[..at].iter().rev().find(|c| !modifier.contains(**c) && !is_variation_selector(**c));
    let emoji = |c: Option<&char>| c.is_some_and(|c| pictographic.contains(*c));
    emoji(before) && emoji(chars.get(at + 1))
}

/// Whether the joiner at a position follows a virama, whose shape it decides (RFC 5892, appendices A.1 and A.2).
fn follows_virama(chars: &[char], at: usize) -> bool {
    let class = CodePointMapData::<CanonicalCombiningClass>::new();
    at.checked_sub(1).is_some_and(|before| class.get(chars[before]) == CanonicalCombiningClass::Virama)
}

/// Whether the non-joiner at a position is between two letters that would join, as in Persian (RFC 5892, appendix A.1).
fn breaks_cursive(chars: &[char], at: usize) -> bool {
    let joining = CodePointMapData::<JoiningType>::new();
    let next = |mut chars: &mut dyn Iterator<Item = char>| {
        (&mut chars).map(|c| joining.get(c)).find(|kind| *kind != JoiningType::Transparent)
    };
    let before = next(&mut chars[..at].iter().rev().copied());
    let after = next(&mut chars[at + 1..].iter().copied());
    matches!(before, Some(JoiningType::LeftJoining | JoiningType::DualJoining))
        && matches!(after, Some(JoiningType::RightJoining | JoiningType::DualJoining))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_are_cut_as_the_standard_library_cuts_them(text in "[/a鍵é]{0,12}") {
            let (part, rest) = cut(&text, b'/');
            prop_assert_eq!(rest.map(|rest| (part, rest)), text.split_once('/'));
            prop_assert_eq!(parts(&text, b'/').collect::<Vec<_>>(), text.split('/').collect::<Vec<_>>());
        }
    }

    #[test]
    fn characters_that_cannot_be_seen_are_refused_in_every_place() {
        let hidden = [
            "\u{200b}",
            "\u{3164}",
            "\u{202e}",
            "\u{2066}",
            "\u{2028}",
            "\u{2029}",
            "\u{feff}",
            "\u{ad}",
            "\u{34f}",
            "\u{61c}",
            "\u{115f}",
            "\u{1160}",
            "\u{17b4}",
            "\u{180e}",
            "\u{2060}",
            "\u{2064}",
            "\u{206a}",
            "\u{ffa0}",
            "\u{fff9}",
            "\u{e0001}",
            "\u{e0041}",
            "\u{1d173}",
            "\u{e000}",
            "\u{f0000}",
            "\u{378}",
            "\u{ffff}",
            "\u{10ffff}",
            "\u{200c}",
            "\u{200d}",
            "\u{fe0f}",
            "\u{e0100}",
            "\u{0}",
            "\n",
            "\u{7f}",
            "\u{85}",
        ];
        for hidden in hidden {
            for text in [hidden.to_owned(), format!("{hidden}a"), format!("a {hidden}"), format!("a {hidden}b")] {
                assert!(problem(&text).is_some(), "{text:?}");
            }
        }
    }

    #[test]
    fn a_text_without_a_visible_character_is_refused() {
        for text in [" ", "  ", "\u{a0}", "\u{3000}", "\u{2800}", " \u{2003}\u{2800}"] {
            assert_eq!(problem(text), Some("must hold a character that can be seen"), "{text:?}");
        }
    }

    #[test]
    fn names_in_the_scripts_of_the_world_and_emoji_are_valid() {
        for text in [
            "",
            "a",
            "CI deploys",
            "Müller & Söhne",
            "本番 キー",
            "प्रोडक्शन",
            "क्‍ष",
            "می‌خواهم",
            "مفتاح",
            "מפתח",
            "ключ",
            "한국어",
            "🔑",
            "👩‍💻",
            "👩🏽‍💻",
            "👨‍👩‍👧",
            "❤️",
            "1️⃣",
            "🇩🇪",
            "🏳️‍🌈",
            "e\u{301}",
            "a\u{a0}b",
            "㊙",
            "葛\u{e0100}",
            "½ ©",
        ] {
            assert_eq!(problem(text), None, "{text:?}");
        }
    }

    #[test]
    fn joiners_are_refused_where_they_join_nothing() {
        for text in [
            "a\u{200d}b",
            "🔑\u{200d}",
            "🔑\u{200d}a",
            "a\u{200d}🔑",
            "a\u{200c}b",
            "م\u{200c}",
            "م\u{200c}a",
            "🔑\u{200c}🔑",
        ] {
            assert!(problem(text).is_some(), "{text:?}");
        }
    }

    #[test]
    fn texts_are_equal_in_every_normalization_form() {
        for (one, other) in
            [("Bürö", "Bu\u{308}ro\u{308}"), ("한", "\u{1112}\u{1161}\u{11ab}"), ("Å", "\u{212b}"), ("a", "a")]
        {
            assert!(same(one, other) && same(other, one), "{one:?} {other:?}");
            assert_eq!(normalized(one), normalized(other));
        }
        for (one, other) in [("Büro", "Buro"), ("a", "A"), ("", "ü"), ("ﬁ", "fi"), ("Ⅷ", "VIII")] {
            assert!(!same(one, other), "{one:?} {other:?}");
        }
        let mut text = "Bu\u{308}ro".to_owned();
        normalize(&mut text);
        assert_eq!((text.as_str(), &*decomposed(&text)), ("Büro", "Bu\u{308}ro"));
    }
}
