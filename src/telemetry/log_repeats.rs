//! Sums up lines that repeat.
//!
//! Lines of one kind come from one callsite and have the same fields: the first few of an interval are logged, and one
//! line at its end reports the number of the others. So neither an anonymous client that is refused thousands of times
//! a second nor a lasting fault floods the log.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    hash::{DefaultHasher, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{
    Event, Level, Subscriber,
    callsite::Identifier,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

/// Length of an interval.
const INTERVAL: Duration = Duration::from_secs(10);
/// Lines of one kind that are logged in an interval.
const MAX_LINES: u64 = 5;
/// Kinds of one callsite that are counted separately. All further ones count as one kind.
const MAX_KINDS: usize = 256;
/// Maximum length of the text of the first suppressed line.
const MAX_TEXT_BYTES: usize = 400;
/// Target of the lines that report the number of suppressed lines.
const TARGET: &str = "keyward::log";
/// A field that differs in each line and is ignored when lines are compared.
const NOT_COMPARED: [&str; 1] = ["request"];

/// The layer that leaves repeated lines out.
pub(super) struct RepeatLayer(pub Arc<Repeats>);

impl<S: Subscriber> Layer<S> for RepeatLayer {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == TARGET {
            return true;
        }
        let mut kind = LineKind::default();
        event.record(&mut kind);
        // Log every call that succeeds: these lines are an access log.
        if kind.succeeded {
            return true;
        }
        let text = || {
            let mut text = Text::default();
            event.record(&mut text);
            text.0
        };
        self.0.admit(&metadata.callsite(), kind.hasher.finish(), *metadata.level(), text, Instant::now())
    }
}

/// The lines of the current intervals, by callsite.
#[derive(Default)]
pub(super) struct Repeats(Mutex<HashMap<Identifier, Callsite>>);

/// The lines of one callsite in the current interval.
#[derive(Default)]
struct Callsite {
    kinds: HashMap<u64, LineCount>,
    /// All kinds past [`MAX_KINDS`].
    others: Option<LineCount>,
}

/// Lines of one kind.
struct LineCount {
    since: Instant,
    logged: u64,
    left_out: u64,
    level: Level,
    /// The first line that was left out.
    text: String,
}

/// How many lines were left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SuppressedLines {
    pub level: Level,
    pub count: u64,
    pub text: String,
}

impl SuppressedLines {
    /// Logs it, at the level of the lines that were left out.
    pub fn log(&self) {
        let Self { level, count, text } = self;
        match *level {
            Level::ERROR => tracing::error!(target: TARGET, count, line = text, "more lines like this one"),
            Level::WARN => tracing::warn!(target: TARGET, count, line = text, "more lines like this one"),
            _ => tracing::info!(target: TARGET, count, line = text, "more lines like this one"),
        }
    }
}

impl Repeats {
    /// Whether a line is to be logged. If not, it is counted.
    fn admit(
        &self,
        callsite: &Identifier,
        kind: u64,
        level: Level,
        text: impl FnOnce() -> String,
        now: Instant,
    ) -> bool {
        let mut callsites = self.0.lock();
        let callsite = callsites.entry(callsite.clone()).or_default();
        let new = || LineCount { since: now, logged: 0, left_out: 0, level, text: String::new() };
        let seen = if callsite.kinds.len() < MAX_KINDS || callsite.kinds.contains_key(&kind) {
            callsite.kinds.entry(kind).or_insert_with(new)
        } else {
            callsite.others.get_or_insert_with(new)
        };
        if seen.logged < MAX_LINES {
            seen.logged += 1;
            return true;
        }
        if seen.left_out == 0 {
            seen.text = text();
        }
        seen.left_out += 1;
        false
    }

    /// Ends the intervals that are over, and returns what was left out in them. With `all`, ends every interval.
    pub fn end_intervals(&self, now: Instant, all: bool) -> Vec<SuppressedLines> {
        let mut left_out = Vec::new();
        let mut end = |seen: &mut LineCount| {
            if !all && now.saturating_duration_since(seen.since) < INTERVAL {
                return true;
            }
            if seen.left_out == 0 {
                return false;
            }
            let count = std::mem::take(&mut seen.left_out);
            left_out.push(SuppressedLines { level: seen.level, count, text: std::mem::take(&mut seen.text) });
            // The lines continue: in the next interval only their number is logged.
            seen.since = now;
            true
        };
        self.0.lock().retain(|_, callsite| {
            callsite.kinds.retain(|_, seen| end(seen));
            callsite.others = callsite.others.take().and_then(|mut seen| end(&mut seen).then_some(seen));
            !callsite.kinds.is_empty() || callsite.others.is_some()
        });
        left_out
    }
}

/// What the lines of one kind have in common: all their fields but numbers.
#[derive(Default)]
struct LineKind {
    hasher: DefaultHasher,
    succeeded: bool,
}

impl LineKind {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if NOT_COMPARED.contains(&field.name()) {
            return;
        }
        let _ = write!(HashedText(&mut self.hasher), "{}\0{value}\0", field.name());
    }
}

impl Visit for LineKind {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.succeeded |= field.name() == "outcome" && value == "OK";
        self.add(field, format_args!("{value}"));
    }

    fn record_i64(&mut self, _: &Field, _: i64) {}
    fn record_u64(&mut self, _: &Field, _: u64) {}
    fn record_f64(&mut self, _: &Field, _: f64) {}
}

struct HashedText<'a>(&'a mut DefaultHasher);

impl fmt::Write for HashedText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// The line as text, cut to a bounded length.
#[derive(Default)]
struct Text(String);

impl Text {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if NOT_COMPARED.contains(&field.name()) {
            return;
        }
        let between = if self.0.is_empty() { "" } else { " " };
        // The text is cut, and that is no error.
        let _ = match field.name() {
            "message" => write!(self, "{between}{value}"),
            name => write!(self, "{between}{name}={value}"),
        };
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_TEXT_BYTES.saturating_sub(self.0.len());
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        if text.len() > room { Err(fmt::Error) } else { Ok(()) }
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_i64(&mut self, _: &Field, _: i64) {}
    fn record_u64(&mut self, _: &Field, _: u64) {}
    fn record_f64(&mut self, _: &Field, _: f64) {}
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing_subscriber::{layer::SubscriberExt as _, registry};

    use super::*;

    /// Counts the lines that get through.
    #[derive(Clone, Default)]
    struct Counter(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Counter {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The number of lines that get through, and what was left out.
    fn lines(log: impl FnOnce()) -> (usize, Vec<SuppressedLines>) {
        let (repeats, counter) = (Arc::<Repeats>::default(), Counter::default());
        let subscriber = registry().with(counter.clone()).with(RepeatLayer(Arc::clone(&repeats)));
        tracing::subscriber::with_default(subscriber, log);
        (counter.0.load(Ordering::SeqCst), repeats.end_intervals(Instant::now(), true))
    }

    fn refuse(outcome: &str, client: &str, number: u64) {
        tracing::info!(
            call = "Verify",
            outcome,
            client,
            request = format!("req_{number}"),
            duration_us = number,
            "call"
        );
    }

    #[test]
    fn refusals_of_one_kind_from_one_address_are_summed_up() {
        let (logged, left_out) = lines(|| {
            for number in 0..1_000 {
                refuse("UNAUTHENTICATED", "192.0.2.1", number);
            }
            refuse("UNAUTHENTICATED", "192.0.2.2", 0);
            refuse("RATE_LIMITED", "192.0.2.1", 0);
        });
        assert_eq!(logged as u64, MAX_LINES + 2);
        let text = "call call=Verify outcome=UNAUTHENTICATED client=192.0.2.1".to_owned();
        assert_eq!(left_out, [SuppressedLines { level: Level::INFO, count: 1_000 - MAX_LINES, text }]);
    }

    #[test]
    fn calls_that_succeed_and_lines_for_debugging_are_all_logged() {
        let (logged, left_out) = lines(|| {
            for number in 0..100 {
                refuse("OK", "192.0.2.1", number);
                tracing::debug!("retrying");
            }
        });
        assert_eq!((logged, left_out), (200, vec![]));
    }

    #[test]
    fn a_fault_that_lasts_is_summed_up_whatever_its_numbers() {
        let (logged, left_out) = lines(|| {
            for keys in 0..50 {
                tracing::warn!(error = %"read-only", keys, "flush failed, will retry");
            }
        });
        assert_eq!(logged as u64, MAX_LINES);
        let text = "flush failed, will retry error=read-only".to_owned();
        assert_eq!(left_out, [SuppressedLines { level: Level::WARN, count: 50 - MAX_LINES, text }]);
    }

    #[test]
    fn more_addresses_than_are_told_apart_share_their_lines() {
        let (logged, left_out) = lines(|| {
            for number in 0..10_000 {
                refuse("UNAUTHENTICATED", &format!("2001:db8::{number:x}"), 0);
            }
        });
        assert_eq!(logged, MAX_KINDS + usize::try_from(MAX_LINES).unwrap());
        let [SuppressedLines { count, .. }] = left_out[..] else { panic!("{left_out:?}") };
        assert_eq!(usize::try_from(count).unwrap(), 10_000 - logged);
    }

    #[test]
    fn the_text_of_a_line_is_bounded() {
        let (_, left_out) = lines(|| {
            for _ in 0..10 {
                tracing::error!(why = "ü".repeat(1_000), "failed");
            }
        });
        let text = &left_out[0].text;
        assert!(text.len() <= MAX_TEXT_BYTES && text.starts_with("failed why=ü"), "{text}");
    }

    #[test]
    fn each_interval_logs_once_and_a_quiet_one_ends_it() {
        let (repeats, callsite) = (Repeats::default(), FindCallsite::default());
        tracing::subscriber::with_default(registry().with(callsite.clone()), || tracing::warn!("here"));
        let callsite = callsite.0.lock().take().unwrap();
        let start = Instant::now();
        let line = |at| repeats.admit(&callsite, 1, Level::WARN, || "here".to_owned(), at);
        for _ in 0..MAX_LINES {
            assert!(line(start));
        }
        assert!(!line(start) && !line(start));
        assert_eq!(repeats.end_intervals(start + INTERVAL / 2, false), []);
        let left_out = |count| [SuppressedLines { level: Level::WARN, count, text: "here".to_owned() }];
        assert_eq!(repeats.end_intervals(start + INTERVAL, false), left_out(2));
        // While it continues, only the number is logged.
        assert!(!line(start + INTERVAL));
        assert_eq!(repeats.end_intervals(start + 2 * INTERVAL, false), left_out(1));
        assert_eq!(repeats.end_intervals(start + 3 * INTERVAL, false), []);
        assert!(line(start + 3 * INTERVAL));
    }

    #[derive(Clone, Default)]
    struct FindCallsite(Arc<Mutex<Option<Identifier>>>);

    impl<S: Subscriber> Layer<S> for FindCallsite {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            *self.0.lock() = Some(event.metadata().callsite());
        }
    }
}
