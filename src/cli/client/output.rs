//! Formats of results. What `-o json` writes is what REST answers.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde_json::Value;

use super::{
    failure::Result,
    screen::Screen,
    table::{Column, Table},
    text,
};

/// A format of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    Table,
    /// One JSON document, indented.
    Json,
    /// One JSON document a line.
    Jsonl,
    /// YAML.
    Yaml,
    /// Ids alone, one a line.
    Id,
}

/// Writes one object. `table` writes it for people.
///
/// # Errors
///
/// Standard output cannot be written.
pub fn object(screen: &Screen, format: Format, value: &Value, table: impl FnOnce() -> String) -> Result {
    let text = match format {
        Format::Table => table(),
        Format::Json => pretty(value) + "\n",
        Format::Jsonl => value.to_string() + "\n",
        Format::Yaml => yaml(value),
        Format::Id => return screen.line(&text::escape(id_of(value))),
    };
    screen.print(&if format == Format::Table { text } else { text::escape_json(&text) })
}

/// Writes a list as its pages arrive.
pub struct ListWriter<'a> {
    screen: &'a Screen,
    format: Format,
    table: Table<'a>,
    written: usize,
}

impl<'a> ListWriter<'a> {
    /// Begins a list with these columns.
    pub fn new(screen: &'a Screen, format: Format, columns: &'a [Column]) -> Self {
        Self { screen, format, table: Table::new(screen, columns), written: 0 }
    }

    /// Writes a page.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub fn page(&mut self, items: &[Value]) -> Result {
        let mut text = String::new();
        match self.format {
            Format::Table => text = self.table.page(items),
            Format::Json => {
                for (at, item) in items.iter().enumerate() {
                    let first = self.written == 0 && at == 0;
                    let indented = pretty(item).replace('\n', "\n  ");
                    let _ = write!(text, "{}\n  {indented}", if first { "[" } else { "," });
                }
            }
            Format::Jsonl => {
                for item in items {
                    let _ = writeln!(text, "{item}");
                }
            }
            Format::Yaml => {
                for item in items {
                    let indented = yaml(item).trim_end().replace('\n', "\n  ");
                    let _ = writeln!(text, "- {indented}");
                }
            }
            Format::Id => {
                for item in items {
                    let _ = writeln!(text, "{}", text::escape(id_of(item)));
                }
            }
        }
        self.written += items.len();
        self.screen.print(&if matches!(self.format, Format::Table | Format::Id) {
            text
        } else {
            text::escape_json(&text)
        })
    }

    /// Ends the list. Returns the number of its items.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub fn finish(self) -> Result<usize> {
        match (self.format, self.written) {
            (Format::Json | Format::Yaml, 0) => self.screen.line("[]")?,
            (Format::Json, _) => self.screen.print("\n]\n")?,
            _ => {}
        }
        Ok(self.written)
    }
}

/// The id of an item: a key, an event, a delivery or an organization.
fn id_of(item: &Value) -> &str {
    let named = ["id", "eventId", "keyId", "subject"].into_iter().find_map(|name| item[name].as_str());
    named.unwrap_or_default()
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// JSON values as YAML. Every string that YAML could read as another type is quoted as in JSON, which YAML reads in the
/// same way.
pub fn yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, field) in fields {
                let _ = write!(text, "{}:", word(name));
                nested(&mut text, field);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let _ = writeln!(text, "- {}", yaml(item).trim_end().replace('\n', "\n  "));
            }
        }
        Value::String(string) => text = word(string) + "\n",
        other => text = format!("{other}\n"),
    }
    text
}

fn nested(text: &mut String, value: &Value) {
    let inner = yaml(value);
    let scalar = match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => true,
    };
    if scalar {
        let _ = writeln!(text, " {}", inner.trim_end());
    } else {
        let _ = writeln!(text, "\n  {}", inner.trim_end().replace('\n', "\n  "));
    }
}

fn word(string: &str) -> String {
    let plain = string.starts_with(|c: char| c.is_ascii_alphabetic())
        && string.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'/' | b'.'))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&string.to_ascii_lowercase().as_str());
    if plain { string.to_owned() } else { Value::from(string).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_quotes_what_is_not_plainly_a_word() {
        let value = json!({
            "id": "key_1", "name": "a: b", "no": "no", "scopes": ["build", "1"], "empty": [], "none": null,
            "metadata": {"team": "x\ny", "é": "1e3"}, "webhook": "https://a.example/#x", "count": 3,
            "nested": [{"a": 1, "b": [true]}],
        });
        let expected = "id: key_1\nname: \"a: b\"\n\"no\": \"no\"\nscopes:\n  - build\n  - \"1\"\nempty: []\nnone: null\n\
                        metadata:\n  team: \"x\\ny\"\n  \"é\": \"1e3\"\nwebhook: \"https://a.example/#x\"\ncount: 3\n\
                        nested:\n  - a: 1\n    b:\n      - true\n";
        assert_eq!(yaml(&value), expected);
    }
}
