//! The documents agree with the sources: every setting with its declaration in `src/config`, every named test with a test.
//!
//! `UPDATE=1 cargo test --features faults --test api reference::` rewrites these files.

use std::{collections::HashMap, fs, path::Path};

use keyward::config::{Flags, Origin, parse, reference};

use crate::support::Setup;

/// Compares a file with what it should hold, or rewrites it.
fn compare(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{name} differs from the declarations in src/config. To rewrite it: UPDATE=1 cargo test --features faults --test \
         api reference::"
    );
}

/// The document with `table` between the markers of this name.
fn with_table(document: &str, name: &str, table: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = fs::read_to_string(path).unwrap();
    let begin = format!("<!-- begin {name}: generated from src/config, see tests/api/reference.rs -->\n");
    let end = format!("<!-- end {name} -->\n");
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{document} has no {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{document} has no {end}"));
    format!("{before}{begin}\n{table}\n{end}{after}")
}

#[test]
fn the_tables_of_the_documents_list_every_setting() {
    let operating = with_table("docs/operating.md", "settings", &reference::settings());
    compare("docs/operating.md", &operating);
    let operating = with_table("docs/operating.md", "keyspace settings", &reference::keyspace());
    compare("docs/operating.md", &operating);
    compare("docs/sessions.md", &with_table("docs/sessions.md", "issuer settings", &reference::issuer()));
}

#[test]
fn the_ready_file_has_every_setting_commented_out() {
    let text = reference::file();
    compare("config/keyward.toml", &text);
    let read = |text: &str| {
        parse("keyward.toml", text, &Flags::default(), &HashMap::new())
            .unwrap_or_else(|problems| panic!("{problems:#?}"))
    };
    assert_eq!(format!("{:?}", read(&text)), format!("{:?}", read("")), "as it is, the file changes nothing");

    let uncommented: String = text
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    let config = read(&uncommented);
    assert!(matches!(config.origins.of("webhooks.deny_ports"), Origin::File(_)), "{uncommented}");
    assert_eq!(config.registry.configured()[0].name, "default");
    let (tls, issuers) = (config.tls.unwrap(), config.issuers);
    assert_eq!((tls.clients.len(), issuers.len()), (1, 1));
}

/// The help of the command line repeats the names of flags and variables.
#[test]
fn the_help_of_serve_names_every_flag_with_its_variable() {
    let folder = tempfile::tempdir().unwrap();
    let help = Setup::new().command(folder.path(), &["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let rows = reference::settings();
    let flags: Vec<(&str, &str)> = rows
        .lines()
        .filter_map(|row| {
            let flag = row.split_once("Flag `")?.1.split('`').next()?;
            let variable = row.split('|').nth(2)?.trim().trim_matches('`');
            Some((flag, variable))
        })
        .collect();
    assert_eq!(flags.len(), 5, "{rows}");
    for (flag, variable) in flags {
        let (_, text) = help.split_once(flag).unwrap_or_else(|| panic!("{flag} is not in {help}"));
        let text = text.split("      --").next().unwrap();
        assert!(text.contains(&format!("[env: {variable}]")), "{flag} and {variable} in {help}");
    }
}

/// The guide names what holds its figures as `folder/file::name`, or as the path of a source file.
#[test]
fn the_tests_that_hold_the_figures_of_the_guide_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/operating.md")).unwrap();
    let (_, figures) = page.split_once("## Where the figures are from").unwrap();
    let names: Vec<&str> = figures.split('`').filter(|word| word.contains("::")).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        let (file, test) = name.split_once("::").unwrap();
        let path = if file.starts_with("src/") { file.to_owned() } else { format!("tests/{file}.rs") };
        let source = fs::read_to_string(root.join(&path)).unwrap_or_else(|_| panic!("no {path}"));
        assert!(source.contains(&format!("fn {test}(")), "no {name}");
    }
}

/// `docs/security.md` names tests as `file::beginning of a name…`.
#[test]
fn the_tests_that_the_security_page_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let names: Vec<&str> = page.split('`').filter(|word| word.starts_with("api/") && !word.contains(' ')).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let (file, test) = name.split_once("::").unwrap_or((name, ""));
        let source = fs::read_to_string(root.join(format!("tests/{file}.rs"))).unwrap_or_else(|_| panic!("no {file}"));
        assert!(source.contains(&format!("fn {}", test.trim_end_matches('…'))), "no {name}");
    }
}
