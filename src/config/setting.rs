//! How a setting is declared. Loading, the ready-made `config/keyward.toml` and the tables of the documents all read
//! these declarations.

/// A setting: its name, where it can be set, its default, and what it does.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The name within its table; empty for a setting of the environment alone.
    pub name: &'static str,
    /// The environment variable that overrides the file.
    pub variable: Option<&'static str>,
    /// The command-line flag that overrides the environment variable.
    pub flag: Option<&'static str>,
    /// The default.
    pub default: Default,
    /// What the setting does, in Markdown.
    pub help: &'static str,
    /// The fields of an inline table.
    pub fields: &'static [Self],
}

/// The default of a setting.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    /// A value in TOML. It is read exactly like a value of the file.
    Value(&'static str),
    /// No value.
    Unset {
        /// The meaning of its absence; empty if the setting's help has it.
        meaning: &'static str,
        /// A value in TOML to start from.
        example: &'static str,
    },
    /// The table is refused without the setting.
    Required {
        /// A value in TOML to start from.
        example: &'static str,
    },
}

impl Default {
    /// A value in TOML that the setting accepts: the default, or else an example.
    pub const fn sample(&self) -> &'static str {
        match self {
            Self::Value(value) => value,
            Self::Unset { example, .. } | Self::Required { example } => example,
        }
    }
}

impl Setting {
    /// A setting with a default value in TOML.
    pub const fn new(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self { name, variable: None, flag: None, default: Default::Value(default), help, fields: &[] }
    }

    /// A setting without a default value.
    pub const fn unset(name: &'static str, meaning: &'static str, example: &'static str, help: &'static str) -> Self {
        Self { default: Default::Unset { meaning, example }, ..Self::new(name, "", help) }
    }

    /// A setting that its table requires.
    pub const fn required(name: &'static str, example: &'static str, help: &'static str) -> Self {
        Self { default: Default::Required { example }, ..Self::new(name, "", help) }
    }

    /// The same setting with an environment variable.
    pub const fn variable(self, variable: &'static str) -> Self {
        Self { variable: Some(variable), ..self }
    }

    /// The same setting with a command-line flag.
    pub const fn flag(self, flag: &'static str) -> Self {
        Self { flag: Some(flag), ..self }
    }

    /// The same setting as an inline table with these fields.
    pub const fn fields(self, fields: &'static [Self]) -> Self {
        Self { fields, ..self }
    }
}

/// A table of the file.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// The name within the table around it.
    pub name: &'static str,
    /// Whether the file holds a list of such tables, `[[name]]`.
    pub list: bool,
    /// What the table is for.
    pub help: &'static str,
    /// The settings.
    pub settings: &'static [Setting],
    /// The tables inside this one.
    pub tables: &'static [Self],
}

impl Table {
    /// Whether the file may hold this name in the table.
    pub fn declares(&self, name: &str) -> bool {
        self.settings.iter().any(|setting| setting.name == name) || self.tables.iter().any(|table| table.name == name)
    }
}
