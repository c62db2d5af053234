//! The log subscriber.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::HashMap,
    fmt::Write as _,
    io, panic,
    panic::PanicHookInfo,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tracing::Level;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use super::{
    escape::Escaping,
    log_queue::{LogQueue, QueueObserver},
    log_repeats::{RepeatLayer, Repeats, SuppressedLines},
};

/// How long the end of the program waits for its last lines to be read.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Target of the message of a panic.
const PANIC_TARGET: &str = "keyward::panic";

/// The log settings of `KEYWARD_LOG` and `KEYWARD_LOG_FORMAT`.
pub struct Logging {
    filter: EnvFilter,
    json: bool,
}

impl Logging {
    /// Reads the settings from the environment.
    ///
    /// # Errors
    ///
    /// A message for each invalid setting.
    pub fn read(environment: &HashMap<String, String>) -> Result<Self, Vec<String>> {
        let filter = environment.get("KEYWARD_LOG").map_or("info,sqlx=warn", String::as_str);
        let filter = EnvFilter::try_new(filter).map_err(|error| format!("KEYWARD_LOG: {error}"));
        let json = match environment.get("KEYWARD_LOG_FORMAT").map(String::as_str) {
            Some("json") => Ok(true),
            Some("text") | None => Ok(false),
            Some(_) => Err("KEYWARD_LOG_FORMAT: must be \"text\" or \"json\"".to_owned()),
        };
        match (filter, json) {
            (Ok(filter), Ok(json)) => Ok(Self { filter, json }),
            (filter, json) => Err(filter.err().into_iter().chain(json.err()).collect()),
        }
    }

    /// Installs the subscriber, which logs to standard error through a queue, and sends the messages of panics there, too.
    /// Dropping what is returned writes what is left.
    ///
    /// # Errors
    ///
    /// The operating system's error if the thread that writes cannot be started.
    pub fn start(self) -> io::Result<LogGuard> {
        let repeats = Arc::<Repeats>::default();
        let queue = LogQueue::start(io::stderr(), LogObserver(Arc::clone(&repeats)))?;
        let writer = Escaping(queue.clone());
        let builder = tracing_subscriber::fmt().with_env_filter(self.filter).with_writer(writer);
        let layer = RepeatLayer(Arc::clone(&repeats));
        if self.json {
            builder.json().flatten_event(true).finish().with(layer).init();
        } else {
            builder.with_ansi(false).finish().with(layer).init();
        }
        let panics = queue.clone();
        panic::set_hook(Box::new(move |panic| log_panic(panic, &panics)));
        Ok(LogGuard { queue, repeats })
    }
}

/// The running log.
pub struct LogGuard {
    queue: LogQueue,
    repeats: Arc<Repeats>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.repeats.end_intervals(Instant::now(), true).iter().for_each(SuppressedLines::log);
        self.queue.flush(FLUSH_TIMEOUT);
    }
}

/// Logs the number of dropped lines and of repeated lines.
struct LogObserver(Arc<Repeats>);

impl QueueObserver for LogObserver {
    fn dropped(&mut self, count: u64) {
        tracing::warn!(count, "log lines dropped: standard error is not read fast enough");
    }

    fn tick(&mut self, now: Instant) {
        self.0.end_intervals(now, false).iter().for_each(SuppressedLines::log);
    }
}

/// Logs a panic. The standard hook would write to standard error directly, and block while nobody reads it.
fn log_panic(panic: &PanicHookInfo<'_>, queue: &LogQueue) {
    let thread = thread::current();
    let mut text = format!("thread '{}' {panic}", thread.name().unwrap_or("<unnamed>"));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        let _ = write!(text, "\n{backtrace}");
    }
    if tracing::enabled!(target: PANIC_TARGET, Level::ERROR) {
        tracing::error!(target: PANIC_TARGET, "{text}");
    } else {
        // The filter does not apply: a panic is always logged.
        text.push('\n');
        queue.push(text.as_bytes(), Level::ERROR);
    }
}

/// Prints why the program ends. Does not wait longer than a second for the reader of standard error.
pub fn print_problems(problems: Vec<String>) {
    let printing = thread::Builder::new().spawn(move || {
        for problem in problems {
            eprintln!("keyward: {problem}");
        }
    });
    let deadline = Instant::now() + FLUSH_TIMEOUT;
    while printing.as_ref().is_ok_and(|printing| !printing.is_finished()) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
}
