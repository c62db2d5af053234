//! What a webhook's deliveries are made of: which secrets sign, and when a failed one is tried again.

use super::clock::{Micros, SECOND};

/// How long the secret before a rotation signs, too.
pub const OVERLAP: Micros = 86_400 * SECOND;

/// The waits after the first attempt and each further one: about three days in all.
pub const RETRIES: [Micros; 9] = [
    5 * SECOND,
    5 * 60 * SECOND,
    30 * 60 * SECOND,
    2 * 3_600 * SECOND,
    5 * 3_600 * SECOND,
    10 * 3_600 * SECOND,
    14 * 3_600 * SECOND,
    20 * 3_600 * SECOND,
    24 * 3_600 * SECOND,
];

/// The secret of a webhook before its last rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Former {
    /// Its version.
    pub version: i64,
    /// Until when it signs, too.
    pub until: Micros,
}

/// The versions of the signing secret that sign at `now`, the newest first.
pub fn signing_versions(version: i64, former: Option<Former>, now: Micros) -> impl Iterator<Item = i64> {
    let overlapping = former.filter(|former| now < former.until).map(|former| former.version);
    std::iter::once(version).chain(overlapping)
}

/// How long to wait after attempt number `attempt` (the first is 1) has failed: what the schedule says, up to a tenth
/// more or less as `chance` will have it, so that what failed together does not come back together. None: it was the
/// last one.
pub fn retry_after(schedule: &[Micros], attempt: u32, chance: u32) -> Option<Micros> {
    let place = usize::try_from(attempt).unwrap_or(usize::MAX).saturating_sub(1);
    let wait = *schedule.get(place)?;
    let fifth = i128::from(wait) / 5;
    let share = fifth * i128::from(chance) / i128::from(u32::MAX);
    Some(wait - wait / 10 + Micros::try_from(share).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_takes_about_three_days_and_then_ends() {
        let waits: Vec<_> = (1..=10).map(|attempt| retry_after(&RETRIES, attempt, u32::MAX / 2)).collect();
        assert_eq!(waits[9], None, "ten attempts");
        let total: Micros = waits.iter().flatten().sum();
        let hours = total / (3_600 * SECOND);
        assert!((72..=80).contains(&hours), "{hours} h");
        assert_eq!(retry_after(&[], 1, 0), None);
        assert_eq!(retry_after(&RETRIES, u32::MAX, 0), None);
    }

    #[test]
    fn a_wait_varies_by_a_tenth_each_way() {
        for (place, wait) in RETRIES.iter().enumerate() {
            let attempt = u32::try_from(place).unwrap() + 1;
            assert_eq!(retry_after(&RETRIES, attempt, 0), Some(wait - wait / 10));
            assert_eq!(retry_after(&RETRIES, attempt, u32::MAX), Some(wait + wait / 10));
        }
    }

    #[test]
    fn the_former_secret_signs_until_its_time_is_over() {
        let former = Some(Former { version: 7, until: 1_000 });
        let versions = |former, now| signing_versions(8, former, now).collect::<Vec<_>>();
        assert_eq!(versions(None, 0), [8]);
        assert_eq!(versions(former, 999), [8, 7]);
        assert_eq!(versions(former, 1_000), [8]);
    }
}
