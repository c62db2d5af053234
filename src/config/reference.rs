//! The settings as text: a commented TOML file, and tables in Markdown. The project's files are compared with these.

use std::fmt::Write as _;

use super::{
    environment, keyspace, session,
    setting::{Default, Setting, Table},
    tables::TABLES,
};

/// Columns that a line of the file may have.
const WIDTH: usize = 120;
/// Longest default, in bytes, that is written into a table.
const MAX_DEFAULT_LEN: usize = 80;

const HEAD: &str = "Every setting of Keyward, commented out at its default; a value after \"For example\" is no default. \
                    `keyward config check --config FILE` prints every problem of a file at once.";

/// A file with every setting, commented out. Lines of text begin with `# `, settings with `#` alone.
pub fn file() -> String {
    let mut text = String::new();
    comment(&mut text, "", HEAD);
    for table in TABLES {
        write_table(&mut text, table.name, table);
    }
    text
}

/// Every setting but those of keyspaces and session issuers, which have tables of their own.
pub fn settings() -> String {
    let mut text = "| setting | environment | default | |\n|---|---|---|---|\n".to_owned();
    for table in TABLES.into_iter().filter(|table| !table.list) {
        rows(&mut text, table.name, table);
    }
    for setting in environment::SETTINGS {
        row(&mut text, "", setting, true);
    }
    text
}

/// The settings of `[[keyspace]]`.
pub fn keyspace() -> String {
    list(&keyspace::settings::TABLE)
}

/// The settings of `[[session.issuer]]`.
pub fn issuer() -> String {
    list(&session::ISSUER_TABLE)
}

fn list(table: &Table) -> String {
    let mut text = "| setting | default | |\n|---|---|---|\n".to_owned();
    for setting in table.settings {
        row(&mut text, setting.name, setting, false);
        for field in listed_fields(setting) {
            row(&mut text, &format!("{}.{}", setting.name, field.name), field, false);
        }
    }
    for inner in table.tables {
        for setting in inner.settings {
            row(&mut text, &format!("{}.{}", inner.name, setting.name), setting, false);
        }
    }
    text
}

fn rows(text: &mut String, path: &str, table: &Table) {
    for setting in table.settings {
        row(text, &format!("{path}.{}", setting.name), setting, true);
    }
    for inner in table.tables.iter().filter(|inner| inner.name != session::ISSUER_TABLE.name) {
        rows(text, &format!("{path}.{}", inner.name), inner);
    }
}

fn row(text: &mut String, name: &str, setting: &Setting, environment: bool) {
    let code = |text: &str| if text.is_empty() { String::new() } else { format!(" `{text}`") };
    let default = match setting.default {
        Default::Value(value) if value.len() > MAX_DEFAULT_LEN => {
            " see [config/keyward.toml](../config/keyward.toml)".to_owned()
        }
        Default::Value(value) => {
            code(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
        }
        Default::Unset { meaning: "", .. } => String::new(),
        Default::Unset { meaning, .. } => format!(" {meaning}"),
        Default::Required { .. } => " required".to_owned(),
    };
    let variable =
        if environment { format!("{} |", code(setting.variable.unwrap_or_default())) } else { String::new() };
    let flag = setting.flag.map(|flag| format!(" Flag `{flag}`.")).unwrap_or_default();
    let _ = writeln!(text, "|{} |{variable}{default} | {}{flag} |", code(name), setting.help);
}

fn write_table(text: &mut String, path: &str, table: &Table) {
    if !table.settings.is_empty() {
        text.push('\n');
        comment(text, "", table.help);
        let _ = if table.list { writeln!(text, "#[[{path}]]") } else { writeln!(text, "[{path}]") };
    }
    for setting in table.settings {
        write_setting(text, setting);
    }
    for inner in table.tables {
        write_table(text, &format!("{path}.{}", inner.name), inner);
    }
}

fn write_setting(text: &mut String, setting: &Setting) {
    comment(text, "", &without_links(setting.help));
    for field in listed_fields(setting) {
        comment(text, "  ", &format!("{}: {}", field.name, field.help));
    }
    let mut facts: Vec<String> = Vec::new();
    facts.extend(setting.variable.map(|variable| format!("Environment: {variable}.")));
    facts.extend(setting.flag.map(|flag| format!("Flag: {flag}.")));
    match setting.default {
        Default::Value(_) => {}
        Default::Unset { meaning: "", .. } => facts.push("For example:".to_owned()),
        Default::Unset { meaning, .. } => facts.push(format!("Default: {meaning}. For example:")),
        Default::Required { .. } => facts.push("Required. For example:".to_owned()),
    }
    if !facts.is_empty() {
        comment(text, "", &facts.join(" "));
    }
    write_value(text, setting);
}

/// A list that is too long for a line takes several.
fn write_value(text: &mut String, setting: &Setting) {
    let line = format!("#{} = {}", setting.name, setting.default.sample());
    let items = line.strip_suffix(']').and_then(|line| line.split_once('[')).filter(|_| line.len() > WIDTH);
    let Some((name, items)) = items else {
        let _ = writeln!(text, "{line}");
        return;
    };
    let _ = writeln!(text, "{name}[");
    for line in wrap(items, WIDTH - 1) {
        let _ = writeln!(text, "#{line}");
    }
    text.push_str("#]\n");
}

/// The fields of an inline table, where no default value shows them.
fn listed_fields(setting: &Setting) -> &'static [Setting] {
    if matches!(setting.default, Default::Value(_)) { &[] } else { setting.fields }
}

fn comment(text: &mut String, indent: &str, comment: &str) {
    for line in wrap(comment, WIDTH - 2 - indent.len()) {
        let _ = writeln!(text, "# {indent}{line}");
    }
}

/// Breaks a text at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Replaces links by the names of their documents.
fn without_links(help: &str) -> String {
    let mut text = String::new();
    let mut rest = help;
    while let Some((before, target, after)) = link(rest) {
        let document = if target.starts_with('#') { "operating.md" } else { target };
        let _ = write!(text, "{before}docs/{document}");
        rest = after;
    }
    text + rest
}

/// The text before the first link, the link's target, and the text after it.
fn link(text: &str) -> Option<(&str, &str, &str)> {
    let (head, tail) = text.split_once("](")?;
    let (before, _) = head.rsplit_once('[')?;
    let (target, after) = tail.split_once(')')?;
    Some((before, target, after))
}
