//! The problems of a configuration, collected so that they are reported all at once.

use std::{cell::RefCell, fmt::Display};

/// Every problem found so far.
#[derive(Debug)]
pub struct Problems {
    file: String,
    /// Byte offset of the start of each line.
    lines: Vec<usize>,
    found: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<(usize, String)>>,
}

/// Problems are sorted by line; of one line, unknown settings come last.
#[derive(Debug)]
struct Problem {
    line: usize,
    unknown: bool,
    text: String,
}

impl Problems {
    /// No problems yet, of a document that came from `file`.
    pub fn new(file: &str, text: &str) -> Self {
        let starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self {
            file: file.to_owned(),
            lines: std::iter::once(0).chain(starts).collect(),
            found: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// The line that holds a byte of the document, counted from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    /// Adds a problem at a byte of the document.
    pub fn at(&self, offset: usize, key: &str, what: impl Display) {
        self.add(offset, key, what, false);
    }

    /// Adds a setting of the document that does not exist.
    pub fn unknown(&self, offset: usize, key: &str) {
        self.add(offset, key, "unknown setting", true);
    }

    /// Adds a warning about a byte of the document.
    pub fn warn(&self, offset: usize, key: &str, what: impl Display) {
        let line = self.line(offset);
        self.warnings.borrow_mut().push((line, self.text(line, key, what)));
    }

    /// Every warning, in the order of the document.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.take();
        warnings.sort_by_key(|(line, _)| *line);
        warnings.into_iter().map(|(_, text)| text).collect()
    }

    /// Adds a problem of an environment variable or a flag.
    pub fn outside(&self, name: &str, what: impl Display) {
        self.found.borrow_mut().push(Problem { line: usize::MAX, unknown: false, text: format!("{name}: {what}") });
    }

    /// Every problem: those of the document in its order, then the others.
    pub fn into_vec(self) -> Vec<String> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|problem| (problem.line, problem.unknown));
        found.into_iter().map(|problem| problem.text).collect()
    }

    fn add(&self, offset: usize, key: &str, what: impl Display, unknown: bool) {
        let line = self.line(offset);
        self.found.borrow_mut().push(Problem { line, unknown, text: self.text(line, key, what) });
    }

    fn text(&self, line: usize, key: &str, what: impl Display) -> String {
        if key.is_empty() {
            format!("{}:{line}: {what}", self.file)
        } else {
            format!("{}:{line}: {key}: {what}", self.file)
        }
    }
}
