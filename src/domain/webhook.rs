//! Rules of webhook deliveries: which secrets sign, and when a failed attempt is retried.

use super::clock::{Micros, SECOND};

/// How long former secrets still sign after a rotation.
pub const SECRET_OVERLAP: Micros = 86_400 * SECOND;

/// The delays after the first attempt and each further one: about three days in total.
pub const DEFAULT_RETRIES: [Micros; 9] = [
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

/// Versions between the newest and the oldest that sign.
const MAX_FORMER_VERSIONS: usize = 32;
/// Bits of a version that count a key's secrets. The bits above are the epoch of the master key that the secret derives
/// from, see [`version`].
const COUNT_BITS: u32 = 32;

/// A webhook's secrets before its last rotation: those that signed at that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormerSecrets {
    /// The version of the oldest.
    pub version: i64,
    /// When they stop signing.
    pub until: Micros,
}

/// The version of a key's `count`th secret, which derives from the master key of an epoch.
pub const fn version(epoch: i64, count: i64) -> i64 {
    epoch << COUNT_BITS | count
}

/// The number of a key's secret; 0 is none yet.
pub const fn count(version: i64) -> i64 {
    version & ((1 << COUNT_BITS) - 1)
}

/// The epoch of the master key that a version's secret derives from.
pub const fn epoch(version: i64) -> i64 {
    version >> COUNT_BITS
}

/// The versions of the signing secret that sign at `now`, newest first. The epochs of the versions between the newest and
/// the oldest are not stored, so each of them appears with every epoch that it may have.
pub fn signing_versions(newest: i64, former: Option<FormerSecrets>, now: Micros) -> impl Iterator<Item = i64> {
    let oldest = former.filter(|former| now < former.until).map(|former| former.version);
    let former = oldest.into_iter().flat_map(move |oldest| {
        let (first, last) = (epoch(oldest).min(epoch(newest)), epoch(oldest).max(epoch(newest)));
        let of_each = move |count| (first..=last).rev().map(move |epoch| version(epoch, count));
        (count(oldest) + 1..count(newest)).rev().flat_map(of_each).take(MAX_FORMER_VERSIONS).chain([oldest])
    });
    std::iter::once(newest).chain(former)
}

/// How long to wait after attempt number `attempt` (the first is 1) has failed: the schedule's delay with a jitter of
/// up to a tenth by `random`, so that attempts that failed together are not repeated together. None: it was the last
/// attempt.
pub fn retry_after(schedule: &[Micros], attempt: u32, random: u32) -> Option<Micros> {
    let index = usize::try_from(attempt).unwrap_or(usize::MAX).saturating_sub(1);
    let wait = *schedule.get(index)?;
    let fifth = i128::from(wait) / 5;
    let share = fifth * i128::from(random) / i128::from(u32::MAX);
    Some(wait - wait / 10 + Micros::try_from(share).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_schedule_ends_after_about_three_days() {
        let waits: Vec<_> = (1..=10).map(|attempt| retry_after(&DEFAULT_RETRIES, attempt, u32::MAX / 2)).collect();
        assert_eq!(waits[9], None, "ten attempts");
        let total: Micros = waits.iter().flatten().sum();
        let hours = total / (3_600 * SECOND);
        assert!((72..=80).contains(&hours), "{hours} h");
        assert_eq!(retry_after(&[], 1, 0), None);
        assert_eq!(retry_after(&DEFAULT_RETRIES, u32::MAX, 0), None);
    }

    #[test]
    fn a_wait_varies_by_a_tenth_in_both_directions() {
        for (index, wait) in DEFAULT_RETRIES.iter().enumerate() {
            let attempt = u32::try_from(index).unwrap() + 1;
            assert_eq!(retry_after(&DEFAULT_RETRIES, attempt, 0), Some(wait - wait / 10));
            assert_eq!(retry_after(&DEFAULT_RETRIES, attempt, u32::MAX), Some(wait + wait / 10));
        }
    }

    #[test]
    fn former_secrets_sign_until_the_overlap_ends() {
        let former = |version| Some(FormerSecrets { version, until: 1_000 });
        let versions = |newest, former, now| signing_versions(newest, former, now).collect::<Vec<_>>();
        assert_eq!(versions(8, None, 0), [8]);
        assert_eq!(versions(8, former(7), 999), [8, 7]);
        assert_eq!(versions(8, former(7), 1_000), [8]);
        assert_eq!(versions(8, former(5), 999), [8, 7, 6, 5]);
        let (old, new) = (|count| version(1, count), |count| version(2, count));
        assert_eq!(versions(new(8), former(old(7)), 0), [new(8), old(7)]);
        assert_eq!(versions(new(8), former(old(6)), 0), [new(8), new(7), old(7), old(6)]);
        assert_eq!(
            versions(old(8), former(new(6)), 0),
            [old(8), new(7), old(7), new(6)],
            "a return to the first master key"
        );
        assert!(versions(version(900, 100), former(1), 0).len() <= 34, "for any stored version");
    }
}
