//! Times in JSON.

use serde::{Serialize, Serializer};
use time::{OffsetDateTime, macros::format_description};

use crate::domain::clock::Micros;

/// A time in RFC 3339 with milliseconds, rounded down. A time whose year does not fit four digits is null.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rfc3339(pub(crate) Micros);

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000).ok();
        time.and_then(|time| time.format(format).ok()).serialize(serializer)
    }
}

/// A time in unix milliseconds, rounded down.
pub(crate) fn millis(at: Micros) -> i64 {
    at.div_euclid(1_000)
}
