//! Sizes of memory, such as "256MiB".

use std::ops::RangeInclusive;

/// Reads a size within bounds; `what` names them.
pub fn bytes(text: &str, bounds: RangeInclusive<u64>, what: &str) -> Result<u64, String> {
    let units = [("KiB", 1_u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let read = units.iter().find_map(|(unit, size)| {
        let number = text.strip_suffix(unit)?.trim().parse::<u64>().ok()?;
        number.checked_mul(*size)
    });
    read.filter(|bytes| bounds.contains(bytes)).ok_or_else(|| what.to_owned())
}
