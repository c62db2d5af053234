//! Reads a TOML document setting by setting and gathers every problem with its line and key, instead of stopping at
//! the first.

use std::{cell::RefCell, collections::BTreeSet, fmt::Display, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Every problem found so far.
#[derive(Debug, Default)]
pub struct Problems {
    file: String,
    /// Byte offset of each line's start.
    lines: Vec<usize>,
    found: RefCell<Vec<(usize, String)>>,
}

impl Problems {
    /// For a document that came from `file`.
    pub fn new(file: &str, text: &str) -> Self {
        let starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { file: file.to_owned(), lines: std::iter::once(0).chain(starts).collect(), found: RefCell::default() }
    }

    /// A problem at a byte of the document.
    pub fn at(&self, offset: usize, key: &str, what: impl Display) {
        let line = self.lines.partition_point(|start| *start <= offset);
        let text = if key.is_empty() {
            format!("{}:{line}: {what}", self.file)
        } else {
            format!("{}:{line}: {key}: {what}", self.file)
        };
        self.found.borrow_mut().push((line, text));
    }

    /// A problem that is not in the document: an environment variable's or a flag's.
    pub fn outside(&self, key: &str, what: impl Display) {
        self.found.borrow_mut().push((usize::MAX, format!("{key}: {what}")));
    }

    /// Everything found, in the document's order.
    pub fn into_vec(self) -> Vec<String> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(line, _)| *line);
        found.into_iter().map(|(_, text)| text).collect()
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Found<T> {
    /// The value.
    pub value: T,
    /// Byte offset in the document.
    pub offset: usize,
    /// Full key, such as `server.grpc_addr` or `keyspace[2].prefix`.
    pub key: String,
}

/// One table of the document. When it is dropped, what nobody asked for is a problem.
pub struct Section<'a> {
    table: Option<&'a DeTable<'a>>,
    path: String,
    offset: usize,
    asked: RefCell<BTreeSet<&'static str>>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub fn root(table: &'a DeTable<'a>, problems: &'a Problems) -> Self {
        Self { table: Some(table), path: String::new(), offset: 0, asked: RefCell::default(), problems }
    }

    /// The full name of a setting in this table.
    pub fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Notes a problem with a setting of this table, or with the table itself (`name` empty).
    pub fn problem(&self, name: &str, what: impl Display) {
        let offset = self.get(name).map_or(self.offset, |value| value.span().start);
        let key = if name.is_empty() { self.path.clone() } else { self.key(name) };
        self.problems.at(offset, &key, what);
    }

    fn get(&self, name: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value)
    }

    fn ask(&self, name: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().insert(name);
        self.get(name)
    }

    fn read<T>(
        &self,
        name: &'static str,
        kind: &str,
        read: impl FnOnce(&'a DeValue<'a>) -> Option<T>,
    ) -> Option<Found<T>> {
        let found = self.ask(name)?;
        let value = read(found.get_ref());
        if value.is_none() {
            self.problem(name, format_args!("must be {kind}, not {}", article(found.get_ref().type_str())));
        }
        Some(Found { value: value?, offset: found.span().start, key: self.key(name) })
    }

    /// A string.
    pub fn text(&self, name: &'static str) -> Option<Found<String>> {
        self.read(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// True or false.
    pub fn flag(&self, name: &'static str) -> Option<bool> {
        self.read(name, "true or false", DeValue::as_bool).map(|found| found.value)
    }

    /// A whole number within bounds.
    pub fn number(&self, name: &'static str, bounds: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let found = self.read(name, "a whole number", integer)?;
        if bounds.contains(&found.value) {
            return Some(found.value);
        }
        self.problem(name, format_args!("must be {} to {}", bounds.start(), bounds.end()));
        None
    }

    /// A length of time, such as "90d" or "500ms".
    pub fn duration(&self, name: &'static str) -> Option<Found<Duration>> {
        let Found { value, offset, key } = self.text(name)?;
        let Ok(value) = humantime::parse_duration(&value) else {
            self.problem(name, "must be a length of time such as \"90d\", \"60s\" or \"500ms\"");
            return None;
        };
        Some(Found { value, offset, key })
    }

    /// A list of strings.
    pub fn texts(&self, name: &'static str) -> Option<Vec<String>> {
        self.read(name, "a list of strings", |value| {
            value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
        })
        .map(|found| found.value)
    }

    /// A list of whole numbers, each within bounds.
    pub fn numbers(&self, name: &'static str, bounds: std::ops::RangeInclusive<i64>) -> Option<Vec<i64>> {
        let found = self.read(name, "a list of whole numbers", |value| {
            value.as_array()?.iter().map(|item| integer(item.get_ref())).collect::<Option<Vec<i64>>>()
        })?;
        if found.value.iter().all(|number| bounds.contains(number)) {
            return Some(found.value);
        }
        self.problem(name, format_args!("each must be {} to {}", bounds.start(), bounds.end()));
        None
    }

    /// A list of strings, or one string alone.
    pub fn one_or_more(&self, name: &'static str) -> Option<Vec<String>> {
        self.read(name, "a string or a list of strings", |value| match value.as_str() {
            Some(one) => Some(vec![one.to_owned()]),
            None => value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect(),
        })
        .map(|found| found.value)
    }

    /// Whether a setting is a table (`Some(true)`), something else (`Some(false)`), or absent.
    pub fn is_table(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| value.get_ref().is_table())
    }

    /// A table of this table; an empty one if it is absent.
    pub fn section(&self, name: &'static str) -> Section<'a> {
        let found = self.read(name, "a table", |value| value.as_table());
        Section {
            offset: found.as_ref().map_or(self.offset, |found| found.offset),
            table: found.map(|found| found.value),
            path: self.key(name),
            asked: RefCell::default(),
            problems: self.problems,
        }
    }

    /// The tables of an array of tables.
    pub fn sections(&self, name: &'static str) -> Vec<Section<'a>> {
        let found = self.read(name, "a list of tables ([[…]])", |value| {
            value.as_array()?.iter().map(|item| Some((item.get_ref().as_table()?, item.span().start))).collect()
        });
        let tables: Vec<(&'a DeTable<'a>, usize)> = found.map(|found| found.value).unwrap_or_default();
        let section = |(place, (table, offset)): (usize, (&'a DeTable<'a>, usize))| Section {
            table: Some(table),
            path: format!("{}[{place}]", self.key(name)),
            offset,
            asked: RefCell::default(),
            problems: self.problems,
        };
        tables.into_iter().enumerate().map(section).collect()
    }

    /// Every setting of this table as a string, with its name: for a table whose keys are free.
    pub fn pairs(&self) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for (name, value) in self.table.into_iter().flatten() {
            match value.get_ref().as_str() {
                Some(text) => pairs.push((name.get_ref().to_string(), text.to_owned())),
                None => self.problem(name.get_ref(), "must be a string"),
            }
        }
        self.asked.borrow_mut().insert("*");
        pairs
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let asked = self.asked.borrow();
        if asked.contains("*") {
            return;
        }
        for (name, _) in self.table.into_iter().flatten() {
            if !asked.contains(name.get_ref().as_ref()) {
                self.problems.at(name.span().start, &self.key(name.get_ref()), "unknown setting");
            }
        }
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    value.as_integer().and_then(|number| i64::from_str_radix(number.as_str(), number.radix()).ok())
}

fn article(kind: &str) -> String {
    if kind.starts_with(['a', 'i']) { format!("an {kind}") } else { format!("a {kind}") }
}
