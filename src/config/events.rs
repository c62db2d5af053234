//! `[events]`: what is told without a call, and for how long it is kept.

use std::time::Duration;

use super::reader::Section;
use crate::domain::{clock::Micros, event::EventRules};

const EARLIEST: Duration = Duration::from_hours(365 * 24);
const LATEST: Duration = Duration::from_mins(1);
const MOST: usize = 10;
const SHORTEST_RETENTION: Duration = Duration::from_hours(24);
const LONGEST_RETENTION: Duration = Duration::from_hours(3_650 * 24);

/// Reads the section.
pub fn read(section: &Section<'_>) -> EventRules {
    let default = EventRules::default();
    EventRules {
        expiring_before: expiring_before(section).unwrap_or(default.expiring_before),
        retention: retention(section).unwrap_or(default.retention),
    }
}

fn micros(length: Duration) -> Option<Micros> {
    Micros::try_from(length.as_micros()).ok()
}

fn expiring_before(section: &Section<'_>) -> Option<Vec<Micros>> {
    let texts = section.texts("expiring_before")?;
    if texts.len() > MOST {
        section.problem("expiring_before", format_args!("must be at most {MOST} lengths of time"));
        return None;
    }
    let read = |text: &String| {
        let length = humantime::parse_duration(text).ok()?;
        let good = (LATEST..=EARLIEST).contains(&length) && length.subsec_nanos() == 0;
        micros(length).filter(|_| good)
    };
    let lengths: Option<Vec<Micros>> = texts.iter().map(read).collect();
    let Some(mut lengths) = lengths else {
        section.problem("expiring_before", "each must be whole seconds, from 1m to 365d, such as \"7d\"");
        return None;
    };
    lengths.sort_unstable();
    lengths.dedup();
    Some(lengths)
}

fn retention(section: &Section<'_>) -> Option<Micros> {
    let found = section.duration("retention")?;
    if (SHORTEST_RETENTION..=LONGEST_RETENTION).contains(&found.value) {
        return micros(found.value);
    }
    section.problem("retention", "must be a length of time from 1d to 3650d");
    None
}
