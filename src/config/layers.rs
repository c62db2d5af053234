//! The sources that a setting can come from: built-in default, file, environment, command line.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use super::{problems::Problems, setting::Setting};

/// What the command line may set.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--database-url`
    pub database_url: Option<String>,
    /// `--grpc-addr`
    pub grpc_addr: Option<String>,
    /// `--http-addr`
    pub http_addr: Option<String>,
    /// `--insecure`
    pub insecure: bool,
}

impl Flags {
    /// The value of a flag of the command line.
    pub(super) fn get(&self, flag: &str) -> Option<&str> {
        match flag {
            "--database-url" => self.database_url.as_deref(),
            "--grpc-addr" => self.grpc_addr.as_deref(),
            "--http-addr" => self.http_addr.as_deref(),
            "--insecure" => self.insecure.then_some("true"),
            _ => None,
        }
    }
}

/// Where the value of a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default.
    Default,
    /// This line of the file.
    File(usize),
    /// This environment variable.
    Environment(&'static str),
    /// This flag of the command line.
    Flag(&'static str),
}

/// Where each setting comes from, by its full name, such as `server.grpc_addr`.
#[derive(Debug, Clone, Default)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where a setting comes from.
    pub fn of(&self, key: &str) -> Origin {
        self.0.get(key).copied().unwrap_or(Origin::Default)
    }
}

/// The overriding sources, and the results, while the document is read.
pub struct Layers<'a> {
    /// The problems found so far.
    pub problems: Problems,
    environment: &'a HashMap<String, String>,
    flags: &'a Flags,
    origins: RefCell<Origins>,
}

impl<'a> Layers<'a> {
    /// For a document that is not read yet.
    pub fn new(problems: Problems, flags: &'a Flags, environment: &'a HashMap<String, String>) -> Self {
        Self { problems, environment, flags, origins: RefCell::default() }
    }

    /// The text of the flag or the environment variable that overrides the file, and which one it is.
    pub fn overriding(&self, setting: &Setting) -> Option<(&'a str, Origin)> {
        let flag = setting.flag.and_then(|flag| Some((self.flags.get(flag)?, Origin::Flag(flag))));
        flag.or_else(|| {
            let variable = setting.variable?;
            Some((self.environment.get(variable)?.as_str(), Origin::Environment(variable)))
        })
    }

    /// Reads a setting of the environment alone.
    pub fn variable<T>(&self, setting: &Setting, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let (text, origin) = self.overriding(setting)?;
        self.parse(setting.variable.unwrap_or_default(), text, origin, parse)
    }

    /// Parses the text of a flag or an environment variable, and records that the setting `key` comes from there.
    pub fn parse<T>(
        &self,
        key: &str,
        text: &str,
        origin: Origin,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.record(key, origin);
        parse(text).map_err(|what| self.outside(origin, &what)).ok()
    }

    /// Records where the setting `key` comes from.
    pub fn record(&self, key: &str, origin: Origin) {
        self.origins.borrow_mut().0.insert(key.to_owned(), origin);
    }

    /// Where the setting `key` comes from, as far as it is read.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.borrow().of(key)
    }

    /// Adds a problem of a flag or an environment variable.
    pub fn outside(&self, origin: Origin, what: &str) {
        if let Origin::Environment(name) | Origin::Flag(name) = origin {
            self.problems.outside(name, what);
        }
    }

    /// The problems and the warnings found, and where each setting comes from.
    pub fn finish(self) -> (Vec<String>, Vec<String>, Origins) {
        let warnings = self.problems.warnings();
        (self.problems.into_vec(), warnings, self.origins.into_inner())
    }
}
