//! Text for people: escapes characters that affect a terminal, and writes times in words.

use std::fmt::Write as _;

use keyward::domain::clock::{Clock as _, SECOND, SystemClock};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Whether a character could move the cursor, change the direction of text, or be invisible.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
        )
}

/// Untrusted text on one line, with every character visible: deceptive characters are shown as `\u{202e}`.
pub fn escape(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_deceptive(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// JSON in which deceptive characters are escaped. They can only be in strings, where `\u202e` means the same.
pub fn escape_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if is_deceptive(c) && c != '\n' {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Now, in seconds since the Unix epoch.
pub fn now() -> i64 {
    SystemClock.wall() / SECOND
}

/// A time in RFC 3339, in seconds since the Unix epoch.
pub fn parse_time(text: &str) -> Option<i64> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

/// A time in words: "3 days ago", "in 2 hours".
pub fn relative(at: i64, now: i64) -> String {
    const DAY: i64 = 86_400;
    // From how many seconds on a unit is used, and its length. The thresholds keep 90 days from being shown as 3
    // months, and 60 minutes from being shown instead of an hour.
    const UNITS: [(i64, i64, &str); 5] = [
        (730 * DAY, 365 * DAY, "year"),
        (100 * DAY, 30 * DAY, "month"),
        (DAY - 1_800, DAY, "day"),
        (3_570, 3_600, "hour"),
        (60, 60, "minute"),
    ];
    let distance = at.saturating_sub(now);
    let Some((_, seconds, unit)) = UNITS.into_iter().find(|(from, ..)| distance.abs() >= *from) else {
        return if distance > 0 { "in a moment" } else { "just now" }.to_owned();
    };
    let count = (distance.abs() + seconds / 2) / seconds;
    let plural = if count == 1 { "" } else { "s" };
    if distance > 0 { format!("in {count} {unit}{plural}") } else { format!("{count} {unit}{plural} ago") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deceptive_characters_are_shown_escaped() {
        assert_eq!(escape("ci\x1b[2J"), "ci\\u{1b}[2J");
        assert_eq!(escape("a\u{202e}b\u{200f}c\nd"), "a\\u{202e}b\\u{200f}c\\u{a}d");
        assert_eq!(escape("Jürgen 日本"), "Jürgen 日本");
        let json = escape_json("{\"a\": \"x\u{202e}\u{9b}\"}\n");
        assert_eq!(json, "{\"a\": \"x\\u202e\\u009b\"}\n");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["a"], "x\u{202e}\u{9b}");
    }

    #[test]
    fn times_are_in_words() {
        for (distance, words) in [
            (0, "just now"),
            (-59, "just now"),
            (5, "in a moment"),
            (-60, "1 minute ago"),
            (3_599, "in 1 hour"),
            (86_399, "in 1 day"),
            (-7_200, "2 hours ago"),
            (-3 * 86_400, "3 days ago"),
            (90 * 86_400 - 1, "in 90 days"),
            (300 * 86_400, "in 10 months"),
            (-800 * 86_400, "2 years ago"),
        ] {
            assert_eq!(relative(1_000_000_000 + distance, 1_000_000_000), words);
        }
        assert_eq!(parse_time("2026-01-01T00:00:00.123Z"), Some(1_767_225_600));
        assert_eq!(parse_time("soon"), None);
    }
}
