//! What goes to the terminal: results on standard output, everything else on standard error.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use console::{Style, Term};

use super::failure::{Failure, Result};

/// Delay before a spinner is shown.
const SPINNER_DELAY: Duration = Duration::from_millis(500);
const SPINNER_INTERVAL: Duration = Duration::from_millis(100);
const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// The standard streams, with what the terminal supports.
pub struct Screen {
    /// The name that messages begin with.
    name: String,
    quiet: bool,
    /// Whether prompts are possible: standard input and standard error are a terminal.
    pub can_ask: bool,
    out: Stream,
    error: Stream,
}

/// A standard stream.
struct Stream {
    is_terminal: bool,
    has_color: bool,
}

impl Screen {
    /// Detects what the standard streams support.
    pub fn new(name: &str, quiet: bool) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let colors = !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let stream = |is_terminal| Stream { is_terminal, has_color: colors && is_terminal };
        let (out, error) = (stream(io::stdout().is_terminal()), stream(io::stderr().is_terminal()));
        Self { name: name.to_owned(), quiet, can_ask: io::stdin().is_terminal() && error.is_terminal, out, error }
    }

    /// The columns of the terminal; none if standard output is none.
    pub fn width(&self) -> Option<usize> {
        self.out.is_terminal.then(|| usize::from(Term::stdout().size().1).max(20))
    }

    /// Writes to standard output.
    ///
    /// # Errors
    ///
    /// The reader has closed it, or the disk is full.
    #[expect(clippy::unused_self, reason = "who prints has the screen")]
    pub fn print(&self, text: &str) -> Result {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
    }

    /// Writes a line to standard output.
    ///
    /// # Errors
    ///
    /// Those of [`Self::print`].
    pub fn line(&self, text: &str) -> Result {
        self.print(&format!("{text}\n"))
    }

    /// Prints a note on standard error. `--quiet` leaves it out.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// Prints a line on standard error, also with `--quiet`.
    #[expect(clippy::unused_self, reason = "who says something has the screen")]
    pub fn say(&self, text: impl AsRef<str>) {
        let _ = writeln!(io::stderr(), "{}", text.as_ref());
    }

    /// Prints a warning on standard error.
    pub fn warn(&self, text: impl AsRef<str>) {
        let label = Style::new().force_styling(self.error.has_color).yellow().apply_to("warning:");
        self.say(format!("{}: {label} {}", self.name, text.as_ref()));
    }

    /// Prints why a command failed.
    pub fn failed(&self, text: &str) {
        let name = Style::new().force_styling(self.error.has_color).red().apply_to(format!("{}:", self.name));
        self.say(format!("{name} {text}"));
    }

    /// A text for standard output in a style.
    pub fn styled(&self, text: &str, style: impl Fn(Style) -> Style) -> String {
        style(Style::new().force_styling(self.out.has_color)).apply_to(text).to_string()
    }

    /// A text for standard error in bold letters.
    pub fn bold_note(&self, text: &str) -> String {
        Style::new().force_styling(self.error.has_color).bold().apply_to(text).to_string()
    }

    /// Waits, with a spinner on a terminal once it takes longer than half a second.
    pub async fn wait<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        if self.quiet || !self.error.is_terminal {
            return work.await;
        }
        let mut work = std::pin::pin!(work);
        let mut shown = false;
        let mut delay = SPINNER_DELAY;
        for frame in SPINNER.iter().cycle() {
            tokio::select! {
                done = &mut work => {
                    if shown {
                        let _ = Term::stderr().clear_line();
                    }
                    return done;
                }
                () = tokio::time::sleep(delay) => {
                    let _ = write!(io::stderr(), "\r{frame} {what}…");
                    (shown, delay) = (true, SPINNER_INTERVAL);
                }
            }
        }
        work.await
    }
}
