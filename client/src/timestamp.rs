//! Times of messages.

use std::time::SystemTime;

use crate::error::Error;

/// The seconds of the years 1 to 9999, which a protobuf timestamp may have.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// The time of a message.
///
/// # Errors
///
/// It is out of range.
pub(crate) fn system_time(time: prost_types::Timestamp) -> Result<SystemTime, Error> {
    let bad = || Error::not_understood("a time that is out of range");
    if !TIMESTAMP_SECONDS.contains(&time.seconds) {
        return Err(bad());
    }
    SystemTime::try_from(time).map_err(|_| bad())
}
