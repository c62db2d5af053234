//! Data runs one way through the modules, and nothing points up: reads every `crate::` path of the sources.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What each module may name besides itself. `main` and the command line stand on top and are not among them.
const MAY_USE: [(&str, &[&str]); 14] = [
    ("domain", &[]),
    ("proto", &[]),
    ("config", &["domain"]),
    ("telemetry", &["domain"]),
    ("json", &["domain"]),
    ("store", &["domain"]),
    ("limiter", &["domain"]),
    ("replica", &["domain", "store"]),
    ("session", &["domain"]),
    ("service", &["domain", "store", "limiter", "replica", "session", "telemetry"]),
    ("transport", &["domain", "json", "telemetry", "service", "proto", "config"]),
    // Test hooks, compiled with the feature `faults` only.
    ("fuzzing", &["domain", "config", "session", "transport"]),
    ("webhook", &["domain", "json", "store", "telemetry", "service"]),
    (
        "app",
        &[
            "domain",
            "store",
            "limiter",
            "replica",
            "session",
            "telemetry",
            "service",
            "transport",
            "webhook",
            "proto",
            "config",
        ],
    ),
];

/// Rules know nothing of what runs, stores or carries them.
const NOT_IN_DOMAIN: [&str; 7] = ["tokio", "tonic", "sqlx", "axum", "hyper", "http", "async_trait"];

/// What a source must not do, as sentences. `depth` counts its modules from the crate's root: 1 for `store/mod.rs`, 2 for
/// `store/error.rs`.
fn breaches(module: &str, depth: usize, source: &str) -> Vec<String> {
    let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
        return vec![format!("the module {module} has no layer: give it one here")];
    };
    let code = without_comments(source);
    let mut breaches: Vec<_> = named(&code)
        .into_iter()
        .chain(climbed(&code, depth))
        .filter(|used| used != module && !allowed.contains(&used.as_str()))
        .map(|used| format!("{module} may not use {used}"))
        .collect();
    if module == "domain" {
        let foreign = NOT_IN_DOMAIN.iter().filter(|name| mentions(&code, &format!("{name}::")));
        breaches.extend(foreign.map(|name| format!("domain may not use the crate {name}")));
    }
    breaches
}

/// Every module that a `crate::…` path names, in a `use` with braces as well as in the midst of code.
fn named(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        // `$crate::` is this crate, too; `my_crate::` is another one.
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => names.extend(heads(list)),
            None => names.extend(word(rest)),
        }
    }
    names
}

/// Every layer that a chain of `super::` reaches by way of the crate's root.
fn climbed(code: &str, depth: usize) -> BTreeSet<String> {
    let chain = "super::".repeat(depth);
    let reached = code.match_indices(&chain).filter_map(|(at, _)| word(&code[at + chain.len()..]));
    reached.filter(|name| MAY_USE.iter().any(|(layer, _)| layer == name)).collect()
}

/// The first word of each item of a list in braces.
fn heads(list: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut fresh = true;
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && !c.is_whitespace() => {
                heads.extend(word(&list[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    heads
}

fn word(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    // A macro of the crate, or an item at its root, is no module: only names in lower case are.
    let word = &text[..end];
    (!word.is_empty() && !word.starts_with(char::is_uppercase) && !text[end..].starts_with('!'))
        .then(|| word.to_owned())
}

fn mentions(code: &str, path: &str) -> bool {
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':')
    })
}

/// Line comments may speak of anything.
fn without_comments(source: &str) -> String {
    source.lines().map(|line| line.find("//").map_or(line, |at| &line[..at])).collect::<Vec<_>>().join("\n")
}

/// Every source below `folder`, with the module that it belongs to and its depth.
fn sources(folder: &Path) -> Vec<(String, usize, PathBuf)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(folder).expect("below the folder");
                let first = inside.components().next().expect("a name").as_os_str().to_string_lossy();
                let depth = inside.components().count() - usize::from(inside.ends_with("mod.rs"));
                found.push((first.trim_end_matches(".rs").to_owned(), depth, path));
            }
        }
    }
    found
}

#[test]
fn no_module_points_up() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let modules: BTreeSet<_> = sources.iter().map(|(module, ..)| module.as_str()).collect();
    for (layer, _) in MAY_USE {
        assert!(modules.contains(layer), "there is no module {layer} any more");
    }
    let mut found = Vec::new();
    for (module, depth, path) in &sources {
        // The library's root only lists the modules; the program stands on top of it.
        if ["lib", "main", "cli"].contains(&module.as_str()) {
            continue;
        }
        let source = fs::read_to_string(path).expect("a source");
        found.extend(
            breaches(module, *depth, &source).into_iter().map(|breach| format!("{}: {breach}", path.display())),
        );
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn an_arrow_that_points_up_is_caught_however_it_is_written() {
    for (module, source, breach) in [
        ("domain", "use crate::service::Service;", "domain may not use service"),
        ("store", "use crate::{domain::key::KeyId, replica::Replica};", "store may not use replica"),
        (
            "store",
            "use crate::{\n    domain::{key::{KeyId}, clock},\n    transport,\n};",
            "store may not use transport",
        ),
        ("service", "fn f() { crate::transport::status::grpc(&e); }", "service may not use transport"),
        ("config", "pub use crate::store::sql as tables;", "config may not use store"),
        ("replica", "macro_rules! m { () => { $crate::service::go() } }", "replica may not use service"),
        ("limiter", "impl From<crate::app::RunError> for X {}", "limiter may not use app"),
        ("transport", "use crate::app;", "transport may not use app"),
        ("domain", "use tokio::time::Instant;", "domain may not use the crate tokio"),
        ("domain", "fn f(s: tonic::Status) {}", "domain may not use the crate tonic"),
        ("domain", "#[derive(sqlx::FromRow)] struct A;", "domain may not use the crate sqlx"),
        ("store", "use super::super::service::Service;", "store may not use service"),
        ("attic", "", "the module attic has no layer: give it one here"),
    ] {
        assert_eq!(breaches(module, 2, source), [breach], "{source}");
    }
}

#[test]
fn arrows_that_point_down_and_words_that_are_no_arrows_are_let_be() {
    for (module, source) in [
        ("domain", "use super::key::KeyId; use crate::domain::clock::Clock;"),
        ("domain", "// as crate::service does with tokio::spawn"),
        ("domain", "use my_crate::service::Service; let autotokio = 1;"),
        ("service", "use super::super::store::Store; use super::keys; use super::super::service::list;"),
        ("service", "use crate::{domain::{error::Error, key}, store::Store, replica::{Held, cached_key::Entry}};"),
        ("store", "pub(super) use columns; crate::columns!();"),
        ("transport", "use crate::{config::Http, proto, service::Service};"),
    ] {
        assert_eq!(breaches(module, 2, source), [""; 0], "{source}");
    }
}
