//! Why a command ended early, and its exit code.

use std::{error::Error, fmt::Display, io};

/// Exit codes. Scripts depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The reader of standard output has closed it.
    Done = 0,
    /// The command failed.
    Failed = 1,
    /// Wrong usage, or cancelled by the person.
    Usage = 2,
    /// The verdict on a secret is not VALID.
    NotValid = 3,
    /// There is no credential, or it is not accepted.
    NotSignedIn = 4,
}

/// Why a command ended early.
#[derive(Debug)]
pub struct Failure {
    /// The exit code of the process.
    pub exit: Exit,
    /// What went wrong; empty if it was printed already.
    pub message: String,
}

/// The result of a command or of a step of one.
pub type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    /// The command failed.
    pub fn new(message: impl Display) -> Self {
        Self { exit: Exit::Failed, message: message.to_string() }
    }

    /// The command was used wrongly.
    pub fn usage(message: impl Display) -> Self {
        Self { exit: Exit::Usage, message: message.to_string() }
    }

    /// There is no credential that is accepted.
    pub fn not_signed_in(message: impl Display) -> Self {
        Self { exit: Exit::NotSignedIn, message: message.to_string() }
    }

    /// The person answered no, or pressed Ctrl-C.
    pub fn cancelled() -> Self {
        Self::usage("cancelled")
    }

    /// Ends the command with an exit code and without a message.
    pub fn silent(exit: Exit) -> Self {
        Self { exit, message: String::new() }
    }

    /// A failed write to standard output. A closed pipe is no error, because `keys list | head` closes it.
    pub fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::silent(Exit::Done)
        } else {
            Self::new(format_args!("standard output: {error}"))
        }
    }

    /// Adds a line with advice.
    pub fn hint(mut self, line: impl Display) -> Self {
        self.message = format!("{}\n{line}", self.message);
        self
    }
}

/// An error and its causes. The outermost message alone is rarely enough.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
