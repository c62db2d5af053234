//! Reads one table of the TOML document, setting by setting. A problem is recorded with its line and key, and reading
//! continues, so that every problem is reported at once.
//!
//! A reading function returns `None` where the setting has no value, or one with a problem.

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use ipnet::IpNet;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    layers::{Layers, Origin},
    setting::{Default, Setting, Table},
};

/// One table of the document.
pub struct Section<'a> {
    table: Option<&'a DeTable<'a>>,
    path: String,
    offset: usize,
    layers: &'a Layers<'a>,
}

impl<'a> Section<'a> {
    /// The whole document, which may hold these tables.
    pub fn root(document: &'a DeTable<'a>, tables: &[&Table], layers: &'a Layers<'a>) -> Self {
        let root = Self { table: Some(document), path: String::new(), offset: 0, layers };
        root.check_names(|name| tables.iter().any(|table| table.name == name));
        root
    }

    /// A table of this one; an empty one where it is absent.
    pub fn table(&self, table: &Table) -> Section<'a> {
        let found = self.get(table.name);
        let inner = found.and_then(|found| self.expect(table.name, found, "a table", DeValue::as_table));
        let offset = found.filter(|_| inner.is_some()).map_or(self.offset, |found| found.span().start);
        let section = Section { table: inner, path: self.key(table.name), offset, layers: self.layers };
        section.check_names(|name| table.declares(name));
        section
    }

    /// The tables of a list, `[[name]]`.
    pub fn list(&self, table: &Table) -> Vec<Section<'a>> {
        let tables = self.get(table.name).and_then(|found| {
            self.expect(table.name, found, "a list of tables ([[…]])", |value| {
                value.as_array()?.iter().map(|item| Some((item.get_ref().as_table()?, item.span().start))).collect()
            })
        });
        let tables: Vec<(&'a DeTable<'a>, usize)> = tables.unwrap_or_default();
        let section = |(index, (inner, offset)): (usize, (&'a DeTable<'a>, usize))| {
            let path = format!("{}[{index}]", self.key(table.name));
            let section = Section { table: Some(inner), path, offset, layers: self.layers };
            section.check_names(|name| table.declares(name));
            section
        };
        tables.into_iter().enumerate().map(section).collect()
    }

    /// Reads an inline table: the file's, or else the default.
    pub fn inline<T>(&self, setting: &Setting, read: impl FnOnce(&Section<'_>) -> Option<T>) -> Option<T> {
        let key = self.key(setting.name);
        if let Some(found) = self.get(setting.name) {
            self.layers.record(&key, self.in_file(found));
            let table = self.expect(setting.name, found, "a table", DeValue::as_table)?;
            let offset = found.span().start;
            let section = Section { table: Some(table), path: key, offset, layers: self.layers };
            section.check_names(|name| setting.fields.iter().any(|field| field.name == name));
            return read(&section);
        }
        let Default::Value(default) = setting.default else { return None };
        let default = DeValue::parse(default).ok()?;
        read(&Section { table: default.get_ref().as_table(), path: key, offset: self.offset, layers: self.layers })
    }

    /// Every pair of a table with free names and string values.
    pub fn pairs(&self, setting: &Setting) -> Vec<(String, String)> {
        let Some(table) = self.get(setting.name).and_then(|found| found.get_ref().as_table()) else {
            return Vec::new();
        };
        let mut pairs = Vec::new();
        for (name, value) in table {
            if let Some(text) = value.get_ref().as_str() {
                pairs.push((name.get_ref().to_string(), text.to_owned()));
            } else {
                let key = format!("{}.{}", self.key(setting.name), name.get_ref());
                self.layers.problems.at(value.span().start, &key, "must be a string");
            }
        }
        pairs
    }

    /// Whether the file has a setting or a table of this name.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether the file has a table as this setting.
    pub fn has_table(&self, setting: &Setting) -> bool {
        self.get(setting.name).is_some_and(|value| value.get_ref().is_table())
    }

    /// Adds a problem of a setting of this table, or of the table itself (`name` empty).
    pub fn problem(&self, name: &str, what: impl Display) {
        let offset = self.get(name).map_or(self.offset, |value| value.span().start);
        let key = if name.is_empty() { self.path.clone() } else { self.key(name) };
        self.layers.problems.at(offset, &key, what);
    }

    /// Adds a warning about a setting of this table: the configuration is valid, but probably not what was intended.
    pub fn warning(&self, name: &str, what: impl Display) {
        let offset = self.get(name).map_or(self.offset, |value| value.span().start);
        self.layers.problems.warn(offset, &self.key(name), what);
    }

    /// Adds a problem of a setting where its value comes from: a flag, an environment variable or the file.
    pub fn problem_at_origin(&self, setting: &Setting, what: &str) {
        match self.layers.origin(&self.key(setting.name)) {
            Origin::Default | Origin::File(_) => self.problem(setting.name, what),
            outside => self.layers.outside(outside, what),
        }
    }

    /// A string.
    pub fn text(&self, setting: &Setting) -> Option<String> {
        self.read(setting, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// A string that is parsed, wherever it comes from. The type of the file's value is checked also where a flag or an
    /// environment variable overrides it.
    pub fn parsed<T>(&self, setting: &Setting, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(setting);
        if let Some((text, origin)) = self.layers.overriding(setting) {
            return self.layers.parse(&self.key(setting.name), text, origin, parse);
        }
        parse(&text?).map_err(|what| self.problem(setting.name, what)).ok()
    }

    /// True or false.
    #[expect(clippy::redundant_closure_for_method_calls, reason = "the method's lifetime is not general enough")]
    pub fn boolean(&self, setting: &Setting) -> Option<bool> {
        self.read(setting, "true or false", |value| value.as_bool())
    }

    /// True or false, where `parse` reads the text of a flag or an environment variable.
    pub fn parsed_boolean(&self, setting: &Setting, parse: impl Fn(&str) -> Result<bool, String>) -> Option<bool> {
        let value = self.boolean(setting);
        match self.layers.overriding(setting) {
            Some((text, origin)) => self.layers.parse(&self.key(setting.name), text, origin, parse),
            None => value,
        }
    }

    /// A whole number within bounds.
    pub fn number<T: TryFrom<i64>>(&self, setting: &Setting, bounds: RangeInclusive<i64>) -> Option<T> {
        let number = self.read(setting, "a whole number", integer)?;
        if !bounds.contains(&number) {
            self.problem(setting.name, format_args!("must be {} to {}", bounds.start(), bounds.end()));
            return None;
        }
        T::try_from(number).ok()
    }

    /// A length of time, such as "90d" or "500ms".
    pub fn duration(&self, setting: &Setting) -> Option<Duration> {
        let Ok(duration) = humantime::parse_duration(&self.text(setting)?) else {
            self.problem(setting.name, "must be a length of time such as \"90d\", \"60s\" or \"500ms\"");
            return None;
        };
        Some(duration)
    }

    /// A length of time within bounds; `what` names them.
    pub fn duration_within(&self, setting: &Setting, bounds: RangeInclusive<Duration>, what: &str) -> Option<Duration> {
        let duration = self.duration(setting)?;
        if !bounds.contains(&duration) {
            self.problem(setting.name, what);
            return None;
        }
        Some(duration)
    }

    /// A list of strings.
    pub fn texts(&self, setting: &Setting) -> Option<Vec<String>> {
        self.read(setting, "a list of strings", strings)
    }

    /// A list of strings, or one string alone.
    pub fn one_or_more(&self, setting: &Setting) -> Option<Vec<String>> {
        self.read(setting, "a string or a list of strings", |value| match value.as_str() {
            Some(one) => Some(vec![one.to_owned()]),
            None => strings(value),
        })
    }

    /// A list of whole numbers, each within bounds.
    pub fn numbers(&self, setting: &Setting, bounds: RangeInclusive<i64>) -> Option<Vec<i64>> {
        let numbers = self.read(setting, "a list of whole numbers", |value| {
            value.as_array()?.iter().map(|item| integer(item.get_ref())).collect::<Option<Vec<i64>>>()
        })?;
        if numbers.iter().any(|number| !bounds.contains(number)) {
            self.problem(setting.name, format_args!("each must be {} to {}", bounds.start(), bounds.end()));
            return None;
        }
        Some(numbers)
    }

    /// A list of networks; an address alone is a network, too.
    pub fn networks(&self, setting: &Setting) -> Option<Vec<IpNet>> {
        let mut networks = Vec::new();
        for text in self.texts(setting)? {
            match text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from)) {
                Ok(network) => networks.push(network),
                Err(_) => self.problem(setting.name, format_args!("\"{text}\" is not a network such as 10.0.0.0/8")),
            }
        }
        Some(networks)
    }

    fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn get(&self, name: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value)
    }

    fn in_file(&self, value: &Spanned<DeValue<'_>>) -> Origin {
        Origin::File(self.layers.problems.line(value.span().start))
    }

    /// The value of the file, or else the default.
    fn read<T>(
        &self,
        setting: &Setting,
        kind: &str,
        read: impl for<'v> FnOnce(&'v DeValue<'v>) -> Option<T>,
    ) -> Option<T> {
        if let Some(found) = self.get(setting.name) {
            self.layers.record(&self.key(setting.name), self.in_file(found));
            return self.expect(setting.name, found, kind, read);
        }
        let Default::Value(default) = setting.default else { return None };
        read(DeValue::parse(default).ok()?.get_ref())
    }

    /// Reads a value of the file; a problem where it is not of this kind.
    fn expect<'v, T>(
        &self,
        name: &str,
        found: &'v Spanned<DeValue<'v>>,
        kind: &str,
        read: impl FnOnce(&'v DeValue<'v>) -> Option<T>,
    ) -> Option<T> {
        let value = read(found.get_ref());
        if value.is_none() {
            self.problem(name, format_args!("must be {kind}, not {}", with_article(found.get_ref().type_str())));
        }
        value
    }

    fn check_names(&self, declared: impl Fn(&str) -> bool) {
        for (name, _) in self.table.into_iter().flatten().filter(|(name, _)| !declared(name.get_ref())) {
            self.layers.problems.unknown(name.span().start, &self.key(name.get_ref()));
        }
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    value.as_integer().and_then(|number| i64::from_str_radix(number.as_str(), number.radix()).ok())
}

fn strings(value: &DeValue<'_>) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
}

fn with_article(kind: &str) -> String {
    if kind.starts_with(['a', 'i']) { format!("an {kind}") } else { format!("a {kind}") }
}
