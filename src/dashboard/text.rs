//! Times, statuses and keys in words.

use time::{OffsetDateTime, macros::format_description};

use crate::domain::{
    clock::{Micros, SECOND},
    key::{KeyRecord, KeyStatus},
};

const MINUTE: Micros = 60 * SECOND;
const HOUR: Micros = 60 * MINUTE;
/// One day.
pub(super) const DAY: Micros = 24 * HOUR;

/// Times farther away than this are shown as dates.
const NEAR: Micros = 60 * DAY;

/// A time as a page shows it: in words, for machines, and in full.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Moment {
    /// "3 hours ago", "in 12 days", or a date.
    pub(super) words: String,
    /// RFC 3339.
    pub(super) machine: String,
    /// "26 Nov 2026, 16:45 UTC".
    pub(super) full: String,
    /// Whether `words` is relative to now.
    pub(super) near: bool,
}

impl Moment {
    pub(super) fn new(at: Micros, now: Micros) -> Self {
        let near = (at - now).abs() < NEAR;
        Self { words: words(at, now), machine: machine(at), full: full(at), near }
    }

    pub(super) fn maybe(at: Option<Micros>, now: Micros) -> Option<Self> {
        at.map(|at| Self::new(at, now))
    }
}

fn date_time(at: Micros) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(at.div_euclid(SECOND)).ok()
}

fn machine(at: Micros) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    date_time(at).and_then(|time| time.format(format).ok()).unwrap_or_default()
}

/// "26 Nov 2026, 16:45 UTC"
pub(super) fn full(at: Micros) -> String {
    let format = format_description!("[day padding:none] [month repr:short] [year], [hour]:[minute] UTC");
    date_time(at).and_then(|time| time.format(format).ok()).unwrap_or_default()
}

/// "26 Nov 2026"
pub(super) fn date(at: Micros) -> String {
    let format = format_description!("[day padding:none] [month repr:short] [year]");
    date_time(at).and_then(|time| time.format(format).ok()).unwrap_or_default()
}

fn words(at: Micros, now: Micros) -> String {
    let mut distance = (at - now).abs();
    if at > now {
        // Round to the nearest unit, so that a key for five days does not show "in 4 days" right after its creation.
        for unit in [MINUTE, HOUR, DAY] {
            if distance >= unit - MINUTE / 2 {
                distance = (distance + unit / 2) / unit * unit;
            }
        }
    }
    let (count, unit) = if distance < MINUTE {
        return if at <= now { "just now".to_owned() } else { "in less than a minute".to_owned() };
    } else if distance < HOUR {
        (distance / MINUTE, "minute")
    } else if distance < DAY {
        (distance / HOUR, "hour")
    } else if distance < NEAR {
        (distance / DAY, "day")
    } else {
        return date(at);
    };
    let amount = counted(u64::try_from(count).unwrap_or_default(), unit);
    if at <= now { format!("{amount} ago") } else { format!("in {amount}") }
}

/// "1 key", "2 keys"
pub(super) fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// "1,234,567"
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The name of a status.
pub(super) fn status(status: KeyStatus) -> &'static str {
    match status {
        KeyStatus::Active => "active",
        KeyStatus::Revoked => "revoked",
        KeyStatus::Expired => "expired",
    }
}

/// A key's name, or a placeholder if it has none.
pub(super) fn name(key: &KeyRecord) -> String {
    if key.name.is_empty() { "(no name)".to_owned() } else { key.name.clone() }
}

/// The text that a person types to confirm an action on a key: its name, or its id where it has no name that can be
/// typed.
pub(super) fn confirmation(key: &KeyRecord) -> String {
    let typed = key.name.trim();
    if typed.is_empty() { key.id.to_string() } else { typed.to_owned() }
}

/// An actor for display: a person without the prefix `user:`.
pub(super) fn actor(actor: &str) -> String {
    match actor {
        "" => "unknown".to_owned(),
        "public" => "anybody (public)".to_owned(),
        _ => actor.strip_prefix("user:").unwrap_or(actor).to_owned(),
    }
}

/// A duration in milliseconds, or in seconds if it is longer.
pub(super) fn took(duration: std::time::Duration) -> String {
    match duration.as_millis() {
        0 => "less than 1 ms".to_owned(),
        millis @ 1..10_000 => format!("{millis} ms"),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_near_now_are_in_words_and_others_are_dates() {
        let now = 1_800_000_000 * SECOND;
        for (at, expected) in [
            (now, "just now"),
            (now - 59 * SECOND, "just now"),
            (now + SECOND, "in less than a minute"),
            (now - MINUTE, "1 minute ago"),
            (now - 3 * HOUR, "3 hours ago"),
            (now - 5 * DAY + SECOND, "4 days ago"),
            (now + MINUTE - SECOND, "in 1 minute"),
            (now + HOUR - SECOND, "in 1 hour"),
            (now + 90 * MINUTE, "in 2 hours"),
            (now + 8 * HOUR - SECOND, "in 8 hours"),
            (now + DAY - SECOND, "in 1 day"),
            (now + 5 * DAY - SECOND, "in 5 days"),
            (now + 12 * DAY, "in 12 days"),
            (now + 100 * DAY, "25 Apr 2027"),
        ] {
            assert_eq!(words(at, now), expected);
        }
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(full(now), "15 Jan 2027, 08:00 UTC");
        assert_eq!(machine(now), "2027-01-15T08:00:00Z");
    }
}
