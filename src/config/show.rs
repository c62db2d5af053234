//! `keyward config show`: every effective setting, with its origin. Secrets are hidden.

use std::{collections::HashMap, fmt::Write as _};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    environment,
    layers::{Flags, Origin},
    load,
    setting::{Default, Setting, Table},
    tables::TABLES,
};

const HIDDEN: &str = "(hidden)";

/// Every effective setting, as TOML with the origin of each in a comment.
///
/// # Errors
///
/// Every problem of the configuration.
pub fn show(flags: &Flags, environment: &HashMap<String, String>) -> Result<String, Vec<String>> {
    let config = load::load(flags, environment)?;
    let file = load::file(flags, environment);
    let text = match &file {
        Some(file) => std::fs::read_to_string(file).map_err(|error| vec![format!("{}: {error}", file.display())])?,
        None => String::new(),
    };
    let document = DeTable::parse(&text).map_err(|error| vec![error.message().to_owned()])?;
    let file = file.map_or_else(|| "no file".to_owned(), |file| file.display().to_string());
    let mut shown =
        SettingPrinter { text: &text, origin: &|key| config.origins.of(key), flags, environment, lines: String::new() };
    let _ = writeln!(shown.lines, "# Effective settings; the file is: {file}");
    for table in TABLES {
        shown.table(table.name, table, find(Some(document.get_ref()), table.name));
    }
    let variables: Vec<_> = environment::SETTINGS.iter().filter_map(|setting| setting.variable).collect();
    let set: Vec<_> = variables.into_iter().filter(|name| environment.contains_key(*name)).collect();
    if !set.is_empty() {
        let _ = writeln!(shown.lines, "\n# Set in the environment alone, hidden: {}", set.join(", "));
    }
    Ok(shown.lines)
}

struct SettingPrinter<'a> {
    text: &'a str,
    origin: &'a dyn Fn(&str) -> Origin,
    flags: &'a Flags,
    environment: &'a HashMap<String, String>,
    lines: String,
}

impl SettingPrinter<'_> {
    fn table(&mut self, path: &str, table: &Table, found: Option<&Spanned<DeValue<'_>>>) {
        if table.list {
            let items = found.and_then(|found| found.get_ref().as_array()).into_iter().flatten();
            for (at, item) in items.enumerate() {
                let _ = writeln!(self.lines, "\n[[{path}]]");
                self.settings(&format!("{path}[{at}]"), table, item.get_ref().as_table());
            }
            return;
        }
        let found = found.and_then(|found| found.get_ref().as_table());
        if !table.settings.is_empty() {
            let _ = writeln!(self.lines, "\n[{path}]");
        }
        self.settings(path, table, found);
    }

    fn settings(&mut self, path: &str, table: &Table, found: Option<&DeTable<'_>>) {
        for setting in table.settings {
            self.setting(&format!("{path}.{}", setting.name), setting, find(found, setting.name));
        }
        for inner in table.tables {
            self.table(&format!("{path}.{}", inner.name), inner, find(found, inner.name));
        }
    }

    fn setting(&mut self, key: &str, setting: &Setting, found: Option<&Spanned<DeValue<'_>>>) {
        let outside = match (self.origin)(key) {
            Origin::Flag(flag) => self.flags.get(flag).map(|text| (text.to_owned(), flag.to_owned())),
            Origin::Environment(name) => self.environment.get(name).map(|text| (text.clone(), name.to_owned())),
            Origin::File(_) | Origin::Default => None,
        };
        let (value, origin) = match (outside, found, setting.default) {
            (Some((text, origin)), ..) => (serde_json::Value::from(text).to_string(), origin),
            (None, Some(found), _) => {
                let line = self.text[..found.span().start].lines().count().max(1);
                (self.text[found.span()].to_owned(), format!("line {line}"))
            }
            (None, None, Default::Value(value)) => (value.to_owned(), "default".to_owned()),
            (None, None, Default::Unset { meaning, .. }) => {
                let meaning = if meaning.is_empty() { "unset" } else { meaning };
                let _ = writeln!(self.lines, "#{} =  # default: {meaning}", setting.name);
                return;
            }
            (None, None, Default::Required { .. }) => return,
        };
        let value = redact(setting.name, &value.split_whitespace().collect::<Vec<_>>().join(" "));
        let _ = writeln!(self.lines, "{} = {value}  # {origin}", setting.name);
    }
}

fn find<'a, 'b>(table: Option<&'a DeTable<'b>>, name: &str) -> Option<&'a Spanned<DeValue<'b>>> {
    table?.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value)
}

/// Hides secrets: passwords of URLs, their queries, and client secrets.
fn redact(name: &str, value: &str) -> String {
    if name != "secret" && (name.ends_with("secret") || name.ends_with("password")) {
        return format!("\"{HIDDEN}\"");
    }
    let mut shown = String::new();
    let mut rest = value;
    // Also within an inline table: `dashboard = { client_secret = "…" }`.
    while let Some(at) = rest.find("client_secret") {
        let (before, after) = rest.split_at(at + "client_secret".len());
        shown.push_str(before);
        let Some((gap, quoted)) = after.split_once('"') else { break };
        let Some((_, after)) = quoted.split_once('"') else { break };
        let _ = write!(shown, "{gap}\"{HIDDEN}\"");
        rest = after;
    }
    let shown = shown + rest;
    let Some((scheme, after)) = shown.split_once("://") else { return shown };
    let end = after.find(['"', ' ', ',']).unwrap_or(after.len());
    let (url, tail) = after.split_at(end);
    let (url, query) = url.split_once('?').map_or((url, ""), |(url, _)| (url, "?(hidden)"));
    let url = match url.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split_once(':').map_or(user.to_owned(), |(user, _)| format!("{user}:{HIDDEN}"));
            format!("{user}@{host}")
        }
        None => url.to_owned(),
    };
    format!("{scheme}://{url}{query}{tail}")
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn secrets_are_hidden() {
        for (name, value, shown) in [
            (
                "url",
                "\"postgres://keyward:s3cret@db:5432/k?password=x\"",
                "\"postgres://keyward:(hidden)@db:5432/k?(hidden)\"",
            ),
            ("store", "\"redis://:p@ss@cache/0\"", "\"redis://:(hidden)@cache/0\""),
            ("url", "\"sqlite://keyward.db\"", "\"sqlite://keyward.db\""),
            ("issuer", "\"https://login.example.com/pool\"", "\"https://login.example.com/pool\""),
            ("client_secret", "\"hush\"", "\"(hidden)\""),
            ("secret", "{ encoding = \"base64url\", bytes = 32 }", "{ encoding = \"base64url\", bytes = 32 }"),
            (
                "dashboard",
                "{ client_id = \"d\", client_secret = \"hush\", scopes = [] }",
                "{ client_id = \"d\", client_secret = \"(hidden)\", scopes = [] }",
            ),
        ] {
            assert_eq!(redact(name, value), shown);
        }
    }
}
