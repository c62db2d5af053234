//! `[events]`: which events are written before a key expires, and how long events are kept.

use std::time::Duration;

use super::{
    section::Section,
    setting::{Setting, Table},
};
use crate::domain::{clock::Micros, event::EventRules};

/// The table.
pub const TABLE: Table = Table {
    name: "events",
    list: false,
    help: "The audit log.",
    settings: &[EXPIRING_BEFORE, RETENTION, SUMMARY_PERIOD],
    tables: &[],
};

const EXPIRING_BEFORE: Setting = Setting::new(
    "expiring_before",
    "[\"7d\", \"1d\"]",
    "How long before a key expires `key.expiring` is written: at most 10 lengths of time, 1m to 365d; `[]` for never.",
);

const RETENTION: Setting = Setting::new("retention", "\"90d\"", "How long events are kept, 1d to 3650d.");

const SUMMARY_PERIOD: Setting = Setting::new(
    "summary_period",
    "\"60s\"",
    "How often denied calls, refused credentials and sign-ins are written, summed up by caller or address, 1s to 1h. In each \
     period a replica writes at most 16 events of refused credentials and 64 of each other type.",
);

const MAX_NOTICE: Duration = Duration::from_hours(365 * 24);
const MIN_NOTICE: Duration = Duration::from_mins(1);
const MAX_NOTICES: usize = 10;
const MIN_RETENTION: Duration = Duration::from_hours(24);
const MAX_RETENTION: Duration = Duration::from_hours(3_650 * 24);

/// Reads the table.
pub fn read(section: &Section<'_>) -> Option<EventRules> {
    let expiring_before = expiring_before(section);
    let bounds = MIN_RETENTION..=MAX_RETENTION;
    let retention = section.duration_within(&RETENTION, bounds, "must be a length of time from 1d to 3650d");
    let bounds = Duration::from_secs(1)..=Duration::from_hours(1);
    let period = section.duration_within(&SUMMARY_PERIOD, bounds, "must be a length of time from 1s to 1h");
    Some(EventRules { expiring_before: expiring_before?, retention: micros(retention?)?, summary_period: period? })
}

fn micros(length: Duration) -> Option<Micros> {
    Micros::try_from(length.as_micros()).ok()
}

fn expiring_before(section: &Section<'_>) -> Option<Vec<Micros>> {
    let texts = section.texts(&EXPIRING_BEFORE)?;
    if texts.len() > MAX_NOTICES {
        section.problem(EXPIRING_BEFORE.name, format_args!("must be at most {MAX_NOTICES} lengths of time"));
        return None;
    }
    let read = |text: &String| {
        let length = humantime::parse_duration(text).ok()?;
        let is_valid = (MIN_NOTICE..=MAX_NOTICE).contains(&length) && length.subsec_nanos() == 0;
        micros(length).filter(|_| is_valid)
    };
    let lengths: Option<Vec<Micros>> = texts.iter().map(read).collect();
    let Some(mut lengths) = lengths else {
        section.problem(EXPIRING_BEFORE.name, "each must be whole seconds, from 1m to 365d, such as \"7d\"");
        return None;
    };
    lengths.sort_unstable();
    lengths.dedup();
    Some(lengths)
}
