//! The order of the rooms: data runs one way through the modules, nothing points up, and no files import each other in a
//! circle. Reads the paths that the sources name.

mod graph;
mod source;

use std::{collections::BTreeSet, path::Path};

use crate::{
    graph::{Files, Module},
    source::{Source, TestCode},
};

/// What each module may name besides itself, in its tests, too.
const MAY_USE: [(&str, &[&str]); 16] = [
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
    ("transport", &["service", "domain", "json", "config", "proto", "telemetry"]),
    // Its requests pass the same connections, layers and extractors as those of REST.
    ("dashboard", &["service", "domain", "transport"]),
    // What strangers send, for fuzz targets.
    ("fuzzing", &["domain", "config", "session", "store", "replica", "service", "transport", "proto"]),
    // The client in the place of the services. It may take from them what a check is, and no way to decide one.
    ("agent", &["transport", "service", "domain", "config", "proto"]),
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
            "dashboard",
            "proto",
            "config",
        ],
    ),
];

/// Crates that rules must not depend on: what runs, stores or transports them.
const NOT_IN_DOMAIN: [&str; 7] = ["tokio", "tonic", "sqlx", "axum", "hyper", "http", "async_trait"];

/// The library, and the program, which is a crate of its own. `checkout.rs` belongs to the build script.
fn crates() -> [Files; 2] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let library = Files::below(&folder, &["lib.rs", "main.rs", "cli", "checkout.rs"]);
    let rest: Vec<_> = library.iter().map(|(module, _)| module[0].clone()).collect();
    let rest: Vec<_> = rest.iter().flat_map(|name| [name.clone(), format!("{name}.rs")]).collect();
    let left_out: Vec<_> = ["lib.rs", "checkout.rs"].into_iter().chain(rest.iter().map(String::as_str)).collect();
    [library, Files::below(&folder, &left_out)]
}

/// What a source must not name, as sentences.
fn breaches(files: &Files, module: &Module, text: &str) -> Vec<String> {
    let room = module[0].as_str();
    let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == room) else {
        return vec![format!("the module {room} has no layer: give it one here")];
    };
    let source = Source::read(text, TestCode::Counts);
    let rooms: BTreeSet<_> = files.imports(module, &source).into_iter().map(|named| named[0].clone()).collect();
    let foreign = rooms.iter().filter(|named| *named != room && !allowed.contains(&named.as_str()));
    let mut breaches: Vec<_> = foreign.map(|named| format!("{room} may not use {named}")).collect();
    if room == "domain" {
        let crates: BTreeSet<_> = source.paths.iter().map(|path| path.segments[0].as_str()).collect();
        let foreign = NOT_IN_DOMAIN.iter().filter(|name| crates.contains(*name));
        breaches.extend(foreign.map(|name| format!("domain may not use the crate {name}")));
    }
    breaches
}

#[test]
fn no_module_names_one_above_it() {
    let [library, _] = crates();
    let rooms: BTreeSet<_> = library.iter().map(|(module, _)| module[0].as_str()).collect();
    for (room, _) in MAY_USE {
        assert!(rooms.contains(room), "there is no module {room} any more");
    }
    let found: Vec<_> = library
        .iter()
        .flat_map(|(module, text)| {
            let name = module.join("::");
            breaches(&library, module, text).into_iter().map(move |breach| format!("{name}: {breach}"))
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let found: Vec<_> = crates().iter().flat_map(Files::circles).collect();
    assert!(found.is_empty(), "circles of imports:\n{}", found.join("\n"));
}

/// What a source of the client's command line must not name: the server's commands, and any room of the library but rules.
fn breaches_of_client(files: &Files, module: &Module, text: &str) -> Vec<String> {
    let source = Source::read(text, TestCode::Counts);
    let server = files.imports(module, &source).into_iter().filter(|named| !named.starts_with(&client()));
    let mut breaches: Vec<_> = server.map(|named| format!("may not use {}", named.join("::"))).collect();
    let rooms = source.paths.iter().filter(|path| path.segments[0] == "keyward");
    let rooms: BTreeSet<_> = rooms.filter_map(|path| path.segments.get(1)).collect();
    let foreign = rooms.into_iter().filter(|room| *room != "domain" && *room != "json");
    breaches.extend(foreign.map(|room| format!("may not use keyward::{room}")));
    breaches
}

fn client() -> Module {
    vec!["cli".to_owned(), "client".to_owned()]
}

/// A command of the client starts in milliseconds because it builds nothing of the server.
#[test]
fn the_client_needs_no_room_of_the_server() {
    let [_, program] = crates();
    let sources: Vec<_> = program.iter().filter(|(module, _)| module.starts_with(&client())).collect();
    assert!(sources.len() > 10, "the client is somewhere else");
    let found: Vec<_> = sources
        .into_iter()
        .flat_map(|(module, text)| {
            let name = module.join("::");
            breaches_of_client(&program, module, text).into_iter().map(move |breach| format!("{name} {breach}"))
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
    let module: Module = [client(), vec!["api".to_owned()]].concat();
    for (text, breach) in [
        ("use crate::cli::server::run;", "may not use cli::server"),
        ("use keyward::store::Store;", "may not use keyward::store"),
        ("use keyward::{domain::clock, app};", "may not use keyward::app"),
    ] {
        assert_eq!(breaches_of_client(&program, &module, text), [breach], "{text}");
    }
    assert_eq!(breaches_of_client(&program, &module, "use keyward::domain::clock::SystemClock;"), [""; 0]);
}

/// A crate with a file for each room, and two more in the store.
fn rooms() -> Files {
    let rooms = MAY_USE.map(|(room, _)| format!("{room}/mod.rs"));
    let more = ["store/sql.rs", "store/pool/mod.rs", "service/keys.rs"];
    Files::new(rooms.iter().map(String::as_str).chain(more).map(|file| (file, "")))
}

#[test]
fn a_forbidden_import_is_found_however_it_is_written() {
    for (module, text, breach) in [
        ("domain::key", "use crate::service::Service;", "domain may not use service"),
        ("store::sql", "use crate::{domain::key::KeyId, replica::Replica};", "store may not use replica"),
        (
            "store::sql",
            "use crate::{\n    domain::{key::{KeyId}, clock},\n    transport,\n};",
            "store may not use transport",
        ),
        ("service::keys", "fn f() { crate::transport::status::grpc(&e); }", "service may not use transport"),
        ("config::tls", "pub use crate::store::sql as tables;", "config may not use store"),
        ("replica::x", "macro_rules! m { () => { $crate::service::go() } }", "replica may not use service"),
        ("limiter::x", "impl From<crate::app::RunError> for X {}", "limiter may not use app"),
        ("transport::x", "use crate::app;", "transport may not use app"),
        ("transport::x", "use crate::store::Store;", "transport may not use store"),
        ("transport::x", "#[cfg(test)] mod tests { use crate::replica::Replica; }", "transport may not use replica"),
        ("webhook::x", "use crate::transport::peer::Peer;", "webhook may not use transport"),
        ("domain::x", "use tokio::time::Instant;", "domain may not use the crate tokio"),
        ("domain::x", "fn f(s: tonic::Status) {}", "domain may not use the crate tonic"),
        ("domain::x", "#[derive(sqlx::FromRow)] struct A;", "domain may not use the crate sqlx"),
        ("store::sql", "use super::super::service::Service;", "store may not use service"),
        ("store::sql", "mod inner { use super::super::super::service::Service; }", "store may not use service"),
        ("attic", "", "the module attic has no layer: give it one here"),
    ] {
        let module = module.split("::").map(str::to_owned).collect();
        assert_eq!(breaches(&rooms(), &module, text), [breach], "{text}");
    }
}

#[test]
fn allowed_imports_and_words_that_are_no_imports_pass() {
    for (module, text) in [
        ("domain::x", "use super::key::KeyId; use crate::domain::clock::Clock;"),
        ("domain::x", "// as crate::service does with tokio::spawn"),
        ("domain::x", "/* crate::service /* nested */ tokio::spawn */"),
        ("domain::x", r##"const A: &str = "crate::service \" tokio::x"; const B: &str = r#"" tokio::y"#;"##),
        ("domain::x", "const QUOTE: char = '\"'; fn f<'a>(_: &'a str) {} // \" tokio::spawn"),
        ("domain::x", "use my_crate::service::Service; let autotokio = 1;"),
        ("domain::x", "pub(in crate::service) struct A;"),
        ("service::keys", "use super::super::store::Store; use super::keys; use super::super::service::list;"),
        (
            "service::keys",
            "use crate::{domain::{error::Error, key}, store::Store, replica::{Held, cached_key::Entry}};",
        ),
        ("store::sql", "pub(super) use columns; crate::columns!();"),
        ("transport::x", "use crate::{config::Http, proto, service::Service};"),
    ] {
        let module = module.split("::").map(str::to_owned).collect();
        assert_eq!(breaches(&rooms(), &module, text), [""; 0], "{text}");
    }
}

#[test]
fn a_circle_of_files_is_found_however_it_is_written() {
    for (files, circle) in [
        // Two files beside each other.
        (
            vec![("a/mod.rs", ""), ("a/x.rs", "use super::y::Y;"), ("a/y.rs", "use crate::a::x::X;")],
            "a::x -> a::y -> a::x",
        ),
        // A parent that uses what its child makes, and a child that uses what its parent has.
        (vec![("a/mod.rs", "mod x; pub use self::x::X;"), ("a/x.rs", "use super::Y;")], "a -> a::x -> a"),
        (vec![("a/mod.rs", "mod x; fn f() { x::go() }"), ("a/x.rs", "fn go() { super::g() }")], "a -> a::x -> a"),
        // Through a third file, and through a tree of imports.
        (
            vec![
                ("a.rs", "use crate::{c, b::{One, Two}};"),
                ("b.rs", "fn f() -> crate::c::C { todo!() }"),
                ("c.rs", "mod inner { use super::super::a::A; }"),
            ],
            "a -> c -> a",
        ),
    ] {
        let found = Files::new(files).circles();
        assert!(found.iter().any(|found| found == circle), "{circle} in {found:?}");
    }
}

#[test]
fn declarations_visibility_and_test_code_make_no_circle() {
    for files in [
        // `mod x;` is no import: a child may use its parent.
        vec![("a/mod.rs", "mod x; struct A;"), ("a/x.rs", "use super::A;")],
        // A parent may use its child.
        vec![("a/mod.rs", "mod x; use self::x::X;"), ("a/x.rs", "pub(in crate::a) struct X;")],
        vec![("a.rs", "use crate::b::B;"), ("b.rs", "#[cfg(test)] mod tests { use crate::a::A; }")],
        vec![("a.rs", "use crate::b::B;"), ("b.rs", "#[cfg(test)] use crate::a::A; struct B;")],
        // Tests in a file of their own.
        vec![
            ("a.rs", "use crate::b::B;"),
            ("b/mod.rs", "#[cfg(test)]\nmod tests;"),
            ("b/tests.rs", "use super::B; use crate::a::A;"),
        ],
        // An inline module's `super` is its own file.
        vec![("a/mod.rs", "mod x; use self::x::X;"), ("a/x.rs", "mod field { use super::Y; }")],
    ] {
        assert_eq!(Files::new(files.clone()).circles(), [""; 0], "{files:?}");
    }
}
