//! Small charts, made on the server as SVG.

use super::text;
use crate::service::overview::DAYS;

/// Height of the plot in units of its view box.
const HEIGHT: u64 = 60;
/// Width of a bar and its gap.
const STEP: u64 = 10;

/// A bar of a chart.
pub(super) struct Bar {
    pub(super) x: u64,
    pub(super) y: u64,
    pub(super) height: u64,
    /// "3 on 26 Nov 2026"
    pub(super) title: String,
}

/// One number for each of the last thirty days.
pub(super) struct DayChart {
    pub(super) bars: Vec<Bar>,
    pub(super) total: u64,
    pub(super) width: u64,
    pub(super) height: u64,
    /// The first and the last day, as an axis names them.
    pub(super) first: String,
    pub(super) last: String,
    /// The chart in words, for screen readers.
    pub(super) summary: String,
}

impl DayChart {
    /// `days` are pairs of a day and a number; days without one are zero.
    pub(super) fn new(happened: &str, days: &[(i64, u64)], today: i64) -> Self {
        let first = today - DAYS + 1;
        let number = |day: i64| days.iter().find(|(known, _)| *known == day).map_or(0, |(_, number)| *number);
        let numbers: Vec<(i64, u64)> = (first..=today).map(|day| (day, number(day))).collect();
        let max = numbers.iter().map(|(_, number)| *number).max().unwrap_or_default();
        let total: u64 = numbers.iter().map(|(_, number)| *number).sum();
        let bars = numbers.iter().zip(0_u64..).map(|((day, number), column)| {
            // A bar for a number above zero is always visible.
            let height = if *number == 0 { 0 } else { (number * HEIGHT / max.max(1)).max(2) };
            let title = format!("{number} on {}", text::date(day * text::DAY));
            Bar { x: column * STEP, y: HEIGHT - height, height, title }
        });
        let bars: Vec<Bar> = bars.collect();
        let summary =
            format!("{} {happened} in the last {DAYS} days, at most {max} on one day", text::counted(total, "key"));
        Self {
            width: bars.len() as u64 * STEP,
            bars,
            total,
            height: HEIGHT,
            first: text::date(first * text::DAY),
            last: text::date(today * text::DAY),
            summary,
        }
    }
}

/// A part of a whole, as a bar.
pub(super) struct Share {
    pub(super) name: String,
    /// "1,234"
    pub(super) number: String,
    /// Of 100.
    pub(super) width: u64,
}

/// The parts of a whole, in their order.
pub(super) fn shares(parts: Vec<(String, u64)>) -> Vec<Share> {
    let max = parts.iter().map(|(_, number)| *number).max().unwrap_or_default().max(1);
    let share = |(name, number): (String, u64)| {
        let width = if number == 0 { 0 } else { (u128::from(number) * 100 / u128::from(max)).max(1) };
        Share { name, number: text::grouped(number), width: u64::try_from(width).unwrap_or(100) }
    };
    parts.into_iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_a_bar_for_each_day_and_every_number_is_seen() {
        let chart = DayChart::new("created", &[(100, 1_000), (99, 1), (50, 7)], 100);
        assert_eq!((chart.bars.len(), chart.total, chart.width), (30, 1_001, 300));
        let heights: Vec<u64> = chart.bars.iter().rev().take(3).map(|bar| bar.height).collect();
        assert_eq!(heights, [60, 2, 0]);
        assert!(chart.bars.iter().all(|bar| bar.y + bar.height == 60));
        assert!(chart.summary.contains("1001 keys created"));
        assert_eq!((chart.first.as_str(), chart.last.as_str()), ("13 Mar 1970", "11 Apr 1970"));
        assert_eq!(DayChart::new("created", &[], 100).total, 0);
    }
}
