//! The results of a run: calls, responses, latencies, and the CPU time of server and load.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::BoxError;

/// Clock ticks per second in `/proc/PID/stat`. Linux shows 100 on every platform.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system time of a process in seconds, and its resident bytes.
fn process(pid: &str) -> Option<(f64, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The process name may contain spaces and brackets: the other fields follow its last bracket.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    let pages: u64 = fields.get(21)?.parse().ok()?;
    Some(((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND, pages * 4_096))
}

/// Counts the responses of a run.
pub struct Tally {
    began: Instant,
    /// Begin and end of the measured time.
    from: Instant,
    until: Instant,
    pid: String,
    /// Nanoseconds of each measured call.
    latencies: Vec<u32>,
    /// Every call of the run, measured or not.
    sent: u64,
    expected: u64,
    unexpected: u64,
    failed: u64,
    server: [f64; 2],
    load: [f64; 2],
    rss: u64,
}

/// The outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// A response that begins as expected.
    Expected,
    /// Another response.
    Unexpected,
    /// No response.
    Failed,
}

impl Tally {
    pub fn new(warmup: Duration, length: Duration, pid: Option<u32>) -> Self {
        let began = Instant::now();
        let from = began + warmup;
        Self {
            began,
            from,
            until: from + length,
            pid: pid.map_or_else(String::new, |pid| pid.to_string()),
            latencies: Vec::with_capacity(1 << 20),
            sent: 0,
            expected: 0,
            unexpected: 0,
            failed: 0,
            server: [0.0; 2],
            load: [0.0; 2],
            rss: 0,
        }
    }

    pub fn until(&self) -> Instant {
        self.until
    }

    pub fn from(&self) -> Instant {
        self.from
    }

    /// Reads the CPU times at the begin (0) or the end (1) of the measured time.
    pub fn sample(&mut self, end: usize) {
        if let Some((cpu, rss)) = process(&self.pid) {
            self.server[end] = cpu;
            self.rss = rss;
        }
        if let Some((cpu, _)) = process("self") {
            self.load[end] = cpu;
        }
    }

    /// Ends the measured time early: all calls were made.
    pub fn end_early(&mut self, now: Instant) {
        self.until = self.until.min(now);
    }

    pub fn sent(&mut self) {
        self.sent += 1;
    }

    pub fn received(&mut self, response: Response, start: Instant, now: Instant) {
        match response {
            Response::Expected => self.expected += 1,
            Response::Unexpected => self.unexpected += 1,
            Response::Failed => self.failed += 1,
        }
        if now >= self.from && now < self.until {
            let took = now.saturating_duration_since(start).as_nanos();
            self.latencies.push(u32::try_from(took).unwrap_or(u32::MAX));
        }
    }

    /// Prints one line of JSON. Fails if a response was unexpected, unless the run is lenient.
    pub fn print(mut self, lenient: bool) -> Result<(), BoxError> {
        self.latencies.sort_unstable();
        let calls = self.latencies.len();
        let micros = |share: f64| -> Value {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "an index of a list"
            )]
            let index = ((calls as f64 * share).ceil() as usize).clamp(1, calls.max(1)) - 1;
            self.latencies.get(index).map_or(Value::Null, |nanos| json!(f64::from(*nanos) / 1e3))
        };
        let seconds = self.until.saturating_duration_since(self.from).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
        let (count, each) = (calls as f64, |[from, to]: [f64; 2]| (to - from) * 1e6 / (calls.max(1) as f64));
        let line = json!({
            "calls": calls,
            "seconds": seconds,
            "rate": count / seconds,
            "p50_us": micros(0.5),
            "p90_us": micros(0.9),
            "p99_us": micros(0.99),
            "p999_us": micros(0.999),
            "max_us": micros(1.0),
            "server_cpu_us": each(self.server),
            "load_cpu_us": each(self.load),
            "server_rss": self.rss,
            "sent": self.sent,
            "expected": self.expected,
            "unexpected": self.unexpected,
            "failed": self.failed,
            "whole_seconds": self.began.elapsed().as_secs_f64(),
        });
        println!("{line}");
        if lenient || (self.expected == self.sent && self.sent > 0) {
            Ok(())
        } else {
            Err(format!("of {} calls only {} had the expected response", self.sent, self.expected).into())
        }
    }
}
