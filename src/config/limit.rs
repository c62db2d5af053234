//! A rate limit as an inline table, `{ limit, window }`.

use super::{section::Section, setting::Setting};
use crate::domain::{
    clock::Micros,
    rate_limit::{MAX_LIMIT, RateLimit},
};

/// The fields of the table.
pub const FIELDS: [Setting; 2] = [LIMIT, WINDOW];

const LIMIT: Setting =
    Setting::required("limit", "100", "Maximum number in any span of one window, 1 to 1,000,000,000.");
const WINDOW: Setting =
    Setting::required("window", "\"60s\"", "Length of the window, 1s to 366d, in whole milliseconds.");

/// Reads a setting that is a rate limit.
pub fn read(section: &Section<'_>, setting: &Setting) -> Option<RateLimit> {
    section.inline(setting, |table| {
        let limit = table.number(&LIMIT, 1..=i64::from(MAX_LIMIT));
        let window = table.duration(&WINDOW);
        for field in FIELDS {
            if !table.has(field.name) {
                table.problem("", format_args!("{} is missing", field.name));
            }
        }
        let window = Micros::try_from(window?.as_micros()).unwrap_or(Micros::MAX);
        if !(RateLimit { limit: 1, window }).has_valid_window() {
            table.problem(WINDOW.name, "must be 1s to 366d, in whole milliseconds");
            return None;
        }
        Some(RateLimit { limit: limit?, window })
    })
}
