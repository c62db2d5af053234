//! `keyward config check`, and the configurations that a start refuses.

use std::{path::Path, process::Output};

use keyward::config::reference;

use crate::support::{Setup, reply, server::ROOT};

/// One file with as many different problems as possible.
const BAD: &str = r#"colour = "red"

[database]
url = "mysql://x"
max_connections = "many"

[server]
grpc_addr = "localhost"
http_addr = 8080

[replica]
lease = "5 parsecs"

[http]
default_keyspace = "nowhere"
trusted_proxies = ["10.0.0.0/33"]

[[keyspace]]
name = "weak"
prefix = "w_"
secret = { encoding = "alphanumeric", length = 24 }
rate_limit = { limit = 0, window = "60s" }

[[keyspace]]
name = "one"
prefix = "same_"
secret = { encoding = "base64url", bytes = 32 }
scopes = ["a", "b"]
admin_scope = "root"

[[keyspace]]
name = "two"
prefix = "same_"
secret = { encoding = "base64url", bytes = 32 }
rate_limit = { limit = 5, window = "900000d" }
pulbic_create = true

[[keyspace]]
name = "keyward"
prefix = "kk_"
secret = { encoding = "base64url", bytes = 32 }
"#;

fn run(setup: &Setup, folder: &Path, arguments: &[&str]) -> Output {
    setup.command(folder, arguments).output().unwrap()
}

fn error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn every_problem_is_printed_at_once_with_its_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::new().config(BAD).env("KEYWARD_MASTER_KEY", "x");
    let output = run(&setup, folder.path(), &["config", "check"]);
    assert_eq!(output.status.code(), Some(1));
    let text = error(&output);
    let expected = [
        "keyward.toml:1: colour: unknown setting",
        "keyward.toml:4: database.url: ",
        "keyward.toml:5: database.max_connections: must be a whole number, not a string",
        // An environment variable of the harness overrides grpc_addr, so only the type of the file's value is checked.
        "keyward.toml:9: server.http_addr: must be a string, not an integer",
        "keyward.toml:12: replica.lease: ",
        "keyward.toml:15: http.default_keyspace: there is no keyspace \"nowhere\"",
        "keyward.toml:16: http.trusted_proxies: \"10.0.0.0/33\" is not a network",
        "keyward.toml:21: keyspace[0].secret: leaves 47 random bits",
        "keyward.toml:22: keyspace[0].rate_limit.limit: must be 1 to",
        "keyward.toml:29: keyspace[1].admin_scope: \"root\" is not in scopes",
        "keyward.toml:33: keyspace[2].prefix: the keyspaces \"one\" and \"two\" share a secret prefix",
        "keyward.toml:35: keyspace[2].rate_limit.window: must be",
        "keyward.toml:36: keyspace[2].pulbic_create: unknown setting",
        "keyward.toml:39: keyspace[3].name: \"keyward\" is reserved",
        "KEYWARD_MASTER_KEY: must be 32 bytes in base64",
    ];
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{text}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with("keyward: ") && line.contains(expected), "{line}\nlacks {expected}");
    }
}

#[test]
fn a_start_with_an_invalid_config_prints_the_same_problems_and_creates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::new().config(BAD);
    let check = run(&setup, folder.path(), &["config", "check"]);
    for command in ["serve", "migrate", "root-key"] {
        let output = run(&setup, folder.path(), &[command]);
        assert_eq!((output.status.code(), error(&output)), (Some(1), error(&check)), "{command}");
    }
    assert!(!folder.path().join("keyward.db").exists());
}

#[test]
fn the_ready_configs_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["norrix", "noro", "nora", "all"] {
        let file = format!("{}/config/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let output = run(&Setup::new(), folder.path(), &["config", "check", "--config", &file]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", error(&output));
    }
}

#[test]
fn a_missing_file_and_a_syntax_error_are_problems() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&Setup::new(), folder.path(), &["config", "check", "--config", "missing.toml"]);
    assert!(output.status.code() == Some(1) && error(&output).contains("missing.toml"), "{output:?}");
    let output = run(&Setup::new().config("a = \nb = \"\n"), folder.path(), &["config", "check"]);
    assert_eq!((output.status.code(), error(&output).lines().count()), (Some(1), 2), "{output:?}");
}

#[test]
fn a_check_prints_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::new()
        .env("KEYWARD_ROOT_KEY", "short-root-secret")
        .env("KEYWARD_MASTER_KEY", "bWFzdGVyLXNlY3JldA==")
        .env("DATABASE_URL", "postgres://u:database-secret@[/x");
    let output = run(&setup, folder.path(), &["config", "check"]);
    let text = error(&output);
    assert_eq!((output.status.code(), text.lines().count()), (Some(1), 3), "{text}");
    for secret in ["short-root-secret", "bWFzdGVy", "database-secret"] {
        assert!(!text.contains(secret), "{text}");
    }
}

/// A root credential that is short or not random could be guessed.
#[tokio::test]
async fn a_root_key_that_can_be_guessed_is_refused_by_the_check_and_at_start() {
    const RANDOM: &str = "Zk3vQ9xN2bLr7TfYw5HcGm8PdJs4RaUe";
    let folder = tempfile::tempdir().unwrap();
    for (key, problem) in [
        (&RANDOM[..5], Some("32 or more characters")),
        (&RANDOM[..31], Some("32 or more characters")),
        (RANDOM, None),
        // 48 hexadecimal digits of a generator.
        ("9f3c61d8e2b7045a9c1ef08d37b6425e81aa0c94d7f3b265", None),
        (&"r".repeat(32), Some("repetition")),
        (&"0123456789abcdef".repeat(2), Some("repetition")),
        ("abcdefghijklmnopqrstuvwxyzABCDEFGH", Some("sequence")),
        ("a8f3a8c1f3e8c1a3e8f1c3a8e1f3c8a1", Some("fewer than 16 different characters")),
        (&format!("{RANDOM}\u{e9}"), Some("visible ASCII")),
        (&format!("{RANDOM} {RANDOM}x"), Some("visible ASCII")),
    ] {
        let setup = || Setup::new().env("KEYWARD_ROOT_KEY", key);
        let check = run(&setup(), folder.path(), &["config", "check"]);
        let text = error(&check);
        assert_eq!(check.status.code(), Some(i32::from(problem.is_some())), "{key}: {text}");
        let Some(problem) = problem else { continue };
        assert!(text.contains("KEYWARD_ROOT_KEY") && text.contains(problem) && !text.contains(key), "{text}");
        let log = setup().try_start().err().expect("the start is refused");
        assert!(log.contains(problem) && !log.contains(key), "{log}");
    }
}

/// Bytes that are not UTF-8 would otherwise count as no variable at all: the first start would print a root key.
#[test]
fn a_variable_that_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStringExt as _;
    let folder = tempfile::tempdir().unwrap();
    let key = std::ffi::OsString::from_vec(b"Zk3vQ9xN2bLr7TfYw5HcGm8PdJs4RaUe\xff".to_vec());
    let output =
        Setup::new().command(folder.path(), &["config", "check"]).env("KEYWARD_ROOT_KEY", key).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error(&output).contains("KEYWARD_ROOT_KEY: must be visible ASCII"), "{}", error(&output));
}

#[tokio::test]
async fn a_flag_overrides_the_environment_which_overrides_the_file() {
    let folder = tempfile::tempdir().unwrap();
    // Each of the three names another database file: the one that is created shows which setting was used.
    let migrate = |file: bool, variable: bool, flag: bool| {
        let mut setup = Setup::new();
        if file {
            setup = setup.config("[database]\nurl = \"sqlite://from-file.db\"");
        }
        if variable {
            setup = setup.database("sqlite://from-variable.db");
        }
        let flags = ["migrate", "--database-url", "sqlite://from-flag.db"];
        let output = run(&setup, folder.path(), if flag { &flags } else { &flags[..1] });
        assert!(output.status.success(), "{output:?}");
        let made: Vec<String> = ["keyward", "from-file", "from-variable", "from-flag"]
            .into_iter()
            .filter(|name| folder.path().join(format!("{name}.db")).exists())
            .map(str::to_owned)
            .collect();
        for name in &made {
            std::fs::remove_file(folder.path().join(format!("{name}.db"))).unwrap();
        }
        made.join(" ")
    };
    assert_eq!(migrate(true, true, true), "from-flag");
    assert_eq!(migrate(true, true, false), "from-variable");
    assert_eq!(migrate(true, false, false), "from-file");
    assert_eq!(migrate(false, false, false), "keyward");
}

/// With another master key, every checksum, page token and webhook secret would silently change.
#[tokio::test]
async fn a_start_with_another_master_key_than_the_first_start_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let start = |byte: Option<u8>| {
        let setup = Setup::new().ready("noro").folder(folder.path());
        match byte {
            Some(byte) => setup.env("KEYWARD_MASTER_KEY", &data_encoding::BASE64.encode(&[byte; 32])),
            None => setup,
        }
        .try_start()
    };
    let mut server = start(Some(1)).unwrap_or_else(|log| panic!("{log}"));
    let key = server.create(serde_json::json!({"name": "n"})).await["key"].as_str().unwrap().to_owned();
    server.stop();
    for other in [Some(2), None] {
        let Err(log) = start(other) else { panic!("a start with {other:?}") };
        assert!(log.contains("KEYWARD_MASTER_KEY"), "{log}");
    }
    let server = start(Some(1)).unwrap_or_else(|log| panic!("{log}"));
    reply(server.rest("GET", "/api/v1/keys").bearer_auth(key)).await.good(200);
    reply(server.rest("GET", "/api/api-keys").bearer_auth(ROOT)).await.good(200);
}

/// A key that the first start created in the database may not be replaced without a rotation either.
#[tokio::test]
async fn a_start_with_a_master_key_on_a_database_that_has_its_own_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let setup = || Setup::new().folder(folder.path());
    setup().start().stop();
    let other = setup().env("KEYWARD_MASTER_KEY", &data_encoding::BASE64.encode(&[1; 32])).try_start();
    let Err(log) = other else { panic!("a start with another key") };
    assert!(log.contains("KEYWARD_MASTER_KEY"), "{log}");
    setup().start();
}

const STORE: &str = "KEYWARD_RATE_LIMIT_STORE";

#[test]
fn a_malformed_rate_limit_store_is_refused_by_the_check_and_at_startup() {
    let folder = tempfile::tempdir().unwrap();
    let empty = run(&Setup::new().config("[rate_limit]\nstore = \"\"\n"), folder.path(), &["config", "check"]);
    assert!(error(&empty).contains("keyward.toml:2: rate_limit.store: "), "{}", error(&empty));
    for store in [
        "redis",
        "localhost:6379",
        "http://localhost:6379",
        "redis://",
        "redis:///0",
        "redis://:hunter2@",
        "redis://:hunter2@localhost:none",
        "redis://:hunter2@localhost:99999/0",
        "redis://:hunter2@localhost/first",
        "redis://:hunter2@localhost/0/1",
        "redis://:hunter2@0.0.0.0/0",
        "rediss://:hunter2@localhost/0#careless",
    ] {
        let file = format!("[rate_limit]\nstore = {store:?}\n");
        for (setup, name) in [
            (Setup::new().config(&file), "keyward.toml:2: rate_limit.store: "),
            (Setup::new().env(STORE, store), "KEYWARD_RATE_LIMIT_STORE: "),
        ] {
            let check = run(&setup, folder.path(), &["config", "check"]);
            let start = run(&setup, folder.path(), &["serve"]);
            let text = error(&check);
            assert_eq!((check.status.code(), start.status.code()), (Some(1), Some(1)), "{store}: {text}");
            assert!(text.contains(name) && text.lines().count() == 1, "{store}: {text}");
            assert!(!text.contains("hunter2"), "{text}");
            assert_eq!(error(&start), text, "{store}");
        }
    }
    for store in ["memory", "redis://localhost", "rediss://user:pass@cache.example:6380/3", "valkey://[::1]:6379"] {
        let check = run(&Setup::new().env(STORE, store), folder.path(), &["config", "check"]);
        assert_eq!(check.status.code(), Some(0), "{store}: {}", error(&check));
    }
}

#[test]
fn the_settings_of_a_shared_rate_limit_store_have_bounds() {
    let folder = tempfile::tempdir().unwrap();
    for (setting, value, good) in [
        ("batch", "1", true),
        ("batch", "10000", true),
        ("batch", "0", false),
        ("batch", "10001", false),
        ("batch", "-1", false),
        ("batch", "\"5\"", false),
        ("timeout", "\"1ms\"", true),
        ("timeout", "\"1s\"", true),
        ("timeout", "\"999us\"", false),
        ("timeout", "\"1001ms\"", false),
        ("timeout", "\"0s\"", false),
        ("timeout", "5", false),
    ] {
        let setup = Setup::new().config(&format!("[rate_limit]\n{setting} = {value}\n"));
        let check = run(&setup, folder.path(), &["config", "check"]);
        let (status, problem) = (check.status.code(), format!("keyward.toml:2: rate_limit.{setting}: "));
        assert_eq!(status, Some(i32::from(!good)), "{setting} = {value}: {}", error(&check));
        assert!(good || error(&check).contains(&problem), "{setting} = {value}: {}", error(&check));
    }
    for (value, good) in [("1s", true), ("2s", false), ("soon", false)] {
        let setup = Setup::new().env("KEYWARD_RATE_LIMIT_TIMEOUT", value);
        let check = run(&setup, folder.path(), &["config", "check"]);
        assert_eq!(check.status.code(), Some(i32::from(!good)), "{value}: {}", error(&check));
        assert!(good || error(&check).contains("KEYWARD_RATE_LIMIT_TIMEOUT"), "{value}: {}", error(&check));
    }
}

#[test]
fn settings_with_which_every_caller_would_be_refused_are_problems() {
    let folder = tempfile::tempdir().unwrap();
    let nora = || Setup::new().ready("nora");
    let long = "Zk3vQ9xN2bLr7TfYw5HcGm8PdJs4RaUe";
    for (setup, name) in [
        (nora().env("KEYWARD_HTTP_ENVIRONMENT", "prodution"), "KEYWARD_HTTP_ENVIRONMENT"),
        (nora().env("KEYWARD_ROOT_KEY", &format!("{long}\n")), "KEYWARD_ROOT_KEY"),
        (nora().env("KEYWARD_ROOT_KEY", &format!("{long}\u{1}x")), "KEYWARD_ROOT_KEY"),
        (nora().env("KEYWARD_ROOT_KEY", "short"), "KEYWARD_ROOT_KEY"),
        (nora().env("KEYWARD_INSECURE", "perhaps"), "KEYWARD_INSECURE"),
    ] {
        let output = run(&setup, folder.path(), &["config", "check"]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(error(&output).contains(name), "{}", error(&output));
    }
    for (name, value) in [("KEYWARD_HTTP_ENVIRONMENT", "production"), ("KEYWARD_ROOT_KEY", long)] {
        let output = run(&nora().env(name, value), folder.path(), &["config", "check"]);
        assert!(output.status.success(), "{name}: {}", error(&output));
    }
}

/// Compose passes an unset variable, `${VAR:-}`, as the empty string.
#[test]
fn an_empty_environment_variable_counts_as_unset() {
    let folder = tempfile::tempdir().unwrap();
    let settings = reference::settings();
    let variables: Vec<&str> =
        settings.split('`').filter(|word| word.starts_with("KEYWARD_") || word.starts_with("DATABASE_")).collect();
    assert!(variables.len() > 15, "{variables:?}");
    let empty = variables.iter().fold(Setup::new().config("[replica]\nlease = \"1s\"\n"), |setup, variable| {
        if *variable == "KEYWARD_CONFIG" { setup } else { setup.env(variable, "") }
    });
    for setup in [empty, Setup::new().env("KEYWARD_CONFIG", "")] {
        let output = run(&setup, folder.path(), &["config", "check"]);
        assert!(output.status.success(), "{}", error(&output));
    }
}
