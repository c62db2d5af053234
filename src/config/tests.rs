#![expect(clippy::similar_names, reason = "two products' names are a letter apart")]

use super::*;
use crate::domain::clock::SECOND;
use crate::domain::{
    egress::Egress,
    keyspace::{CredentialHeader, Prefixes, RequiredBinding},
    secret::Encoding,
};

const SECRET: &str = "secret = { encoding = \"base64url\", bytes = 32 }";

fn environment(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub fn good(text: &str) -> Config {
    parse("f", text, &Flags::default(), &HashMap::new()).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// The problems of a text, without the file's name.
pub fn problems(text: &str) -> Vec<String> {
    let problems = parse("f", text, &Flags::default(), &HashMap::new()).err().unwrap_or_default();
    problems.into_iter().map(|problem| problem.strip_prefix("f:").unwrap_or(&problem).to_owned()).collect()
}

/// A keyspace with more settings; its first line is the file's first.
pub fn keyspace(more: &str) -> String {
    format!("[[keyspace]]\nname = \"x\"\nprefix = \"x_\"\n{SECRET}\n{more}\n")
}

#[test]
fn without_a_file_there_is_one_plain_keyspace_and_every_default() {
    let config = good("");
    let [only] = config.registry.configured() else { panic!("one keyspace") };
    assert_eq!((only.name.as_str(), &only.prefixes), ("default", &Prefixes::One("ak_".to_owned())));
    assert_eq!((only.encoding, only.credential), (Encoding::Alphanumeric { length: 32 }, CredentialHeader::Bearer));
    assert_eq!((&only.scopes, only.default_ttl, only.rate_limit), (&None, None, None));
    assert!(!only.public_create && !only.self_service && only.require == RequiredBinding::default());
    assert_eq!(config.database.url, DatabaseUrl::Sqlite("keyward.db".into()));
    assert_eq!(config.server.grpc_addr.to_string(), "127.0.0.1:50051");
    assert_eq!(config.server.http_addr.to_string(), "127.0.0.1:8080");
    assert_eq!(config.server.metrics_addr, None);
    assert_eq!(config.replica.lease, Duration::from_secs(3));
    assert_eq!(config.http.public_create_limit, RateLimit { limit: 10, window: 60 * SECOND });
    assert!(config.root_key.is_none() && config.master_keys.is_empty() && config.http.environment.is_empty());
}

#[test]
fn the_reserved_keyspace_is_always_there() {
    for config in [good(""), good(&keyspace(""))] {
        let reserved = config.registry.by_name("keyward").unwrap();
        assert_eq!(reserved.prefixes, Prefixes::One("kw_".to_owned()));
        assert_eq!(reserved.encoding, Encoding::Alphanumeric { length: 40 });
        assert_eq!(reserved.scopes.as_deref(), Some(&["root".to_owned(), "verify".to_owned()][..]));
    }
}

#[test]
fn the_ready_configs_are_good_and_say_what_the_products_need() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let read = |name: &str| good(&std::fs::read_to_string(format!("{folder}/{name}.toml")).unwrap());
    let all = read("all");
    assert_eq!(all.http.default_keyspace.as_deref(), Some("noro"));
    for name in ["norrix", "noro", "nora"] {
        let config = read(name);
        let [only] = config.registry.configured() else { panic!("{name}: one keyspace") };
        assert_eq!(Some(only), all.registry.by_name(name), "{name} is the same alone and beside the others");
        assert!(config.http.environment.is_empty(), "{name}: the host's environment is left unset");
    }
    let cognito = read("cognito");
    assert_eq!(cognito.registry.configured()[0], *all.registry.by_name("norrix").unwrap());
    assert_eq!((cognito.issuers.len(), &*cognito.issuers[0].keyspaces), (1, &["norrix".to_owned()][..]));
    let norrix = all.registry.by_name("norrix").unwrap();
    assert_eq!(norrix.default_scopes, ["build", "submit", "update"]);
    assert_eq!(norrix.admin_scope.as_deref(), Some("admin"));
    let noro = all.registry.by_name("noro").unwrap();
    assert_eq!(noro.default_ttl, Some(Duration::from_hours(90 * 24)));
    assert_eq!(noro.rate_limit, Some(RateLimit { limit: 100, window: 60 * SECOND }));
    assert!(noro.public_create && noro.self_service);
    let nora = all.registry.by_name("nora").unwrap();
    assert_eq!(
        (nora.prefixes.for_environment("sandbox"), nora.prefixes.for_environment("production")),
        (Some("sk_test_"), Some("sk_live_"))
    );
    assert_eq!(nora.credential, CredentialHeader::XApiKey);
    assert_eq!(nora.require, RequiredBinding { organization: true, instance: true, environment: true });
}

#[test]
fn a_flag_goes_before_the_environment_before_the_file_before_the_default() {
    let text = "[server]\nhttp_addr = \"127.0.0.1:1\"\n[http]\nenvironment = \"file\"\n[replica]\nlease = \"1s\"";
    let variables = environment(&[
        ("KEYWARD_HTTP_ADDR", "127.0.0.1:2"),
        ("KEYWARD_HTTP_ENVIRONMENT", "variable"),
        ("KEYWARD_REPLICA_LEASE", "2s"),
        ("DATABASE_URL", "postgres://variable/db"),
        ("KEYWARD_METRICS_ADDR", "127.0.0.1:9"),
    ]);
    let flags = Flags { http_addr: Some("127.0.0.1:3".to_owned()), ..Flags::default() };
    let port = |flags: &Flags, variables: &HashMap<String, String>, text: &str| {
        parse("f", text, flags, variables).unwrap().server.http_addr.port()
    };
    let none = (Flags::default(), HashMap::new());
    assert_eq!(port(&none.0, &none.1, ""), 8080);
    assert_eq!(port(&none.0, &none.1, text), 1);
    assert_eq!(port(&none.0, &variables, text), 2);
    assert_eq!(port(&flags, &variables, text), 3);
    let config = parse("f", text, &none.0, &variables).unwrap();
    assert_eq!((config.http.environment.as_str(), config.replica.lease), ("variable", Duration::from_secs(2)));
    assert_eq!(config.database.url, DatabaseUrl::Postgres("postgres://variable/db".to_owned()));
    assert_eq!(config.server.metrics_addr.unwrap().port(), 9);
}

#[test]
fn a_bad_variable_or_flag_is_named_by_what_it_is() {
    let master = data_encoding::BASE64.encode(&[7; 32]);
    for (name, value) in [
        ("DATABASE_URL", "mysql://x"),
        ("DATABASE_URL", "sqlite://:memory:"),
        ("KEYWARD_GRPC_ADDR", "localhost"),
        ("KEYWARD_HTTP_ADDR", "127.0.0.1"),
        ("KEYWARD_METRICS_ADDR", "x:1"),
        ("KEYWARD_REPLICA_LEASE", "1 parsec"),
        ("KEYWARD_REPLICA_LEASE", "1h"),
        ("KEYWARD_RATE_LIMIT_STORE", "disk"),
        ("KEYWARD_ROOT_KEY", "31-characters-are-one-too-few-x"),
        ("KEYWARD_MASTER_KEY", "not base64"),
        ("KEYWARD_MASTER_KEY", "c2hvcnQ="),
        ("KEYWARD_MASTER_KEY", &format!("{master},")),
        ("KEYWARD_MASTER_KEY", &format!("{master},{master}")),
        ("KEYWARD_HTTP_ENVIRONMENT", &"e".repeat(129)),
    ] {
        let problems = parse("", "", &Flags::default(), &environment(&[(name, value)])).unwrap_err();
        let [only] = problems.as_slice() else { panic!("{name}: {problems:?}") };
        assert!(only.starts_with(&format!("{name}: ")), "{only}");
    }
    let flags = Flags { grpc_addr: Some("x".to_owned()), ..Flags::default() };
    let problems = parse("", "", &flags, &HashMap::new()).unwrap_err();
    assert!(problems[0].starts_with("--grpc-addr: "), "{problems:?}");
}

#[test]
fn a_root_key_is_32_characters_or_more_and_a_master_key_32_bytes() {
    let master = data_encoding::BASE64.encode(&[7; 32]);
    let variables = environment(&[("KEYWARD_ROOT_KEY", &"é".repeat(32)), ("KEYWARD_MASTER_KEY", &master)]);
    let config = parse("", "", &Flags::default(), &variables).unwrap();
    assert_eq!(*config.master_keys[0], [7; 32]);
    assert!(config.root_key.is_some());
}

#[test]
fn a_secret_needs_96_random_bits_beyond_what_is_shown() {
    // 12 characters are shown; 6 are the checksum; a character has a little under 6 bits.
    let problem = |prefix: &str, secret: &str| {
        problems(&format!("[[keyspace]]\nname = \"x\"\nprefix = \"{prefix}\"\nsecret = {secret}\n"))
    };
    let alphanumeric = |length: usize| format!("{{ encoding = \"alphanumeric\", length = {length} }}");
    let base64url = |bytes: usize| format!("{{ encoding = \"base64url\", bytes = {bytes} }}");
    assert_eq!(problem("noro_", &alphanumeric(30)), [""; 0]);
    assert_eq!(
        problem("noro_", &alphanumeric(29)),
        ["4: keyspace[0].secret: leaves 95 random bits beyond the shown prefix; 96 are needed"]
    );
    assert_eq!(problem("a_prefix_of_more_than_12", &alphanumeric(23)), [""; 0]);
    // 8 characters of the body are shown: 48 bits.
    assert_eq!(problem("nrx_", &base64url(18)), [""; 0]);
    assert_eq!(problem("nrx_", &base64url(17)).len(), 1);
}

#[test]
fn secret_prefixes_are_shared_by_nobody() {
    let two = |one: &str, other: &str| {
        let keyspace = |name, prefix| format!("[[keyspace]]\nname = \"{name}\"\nprefix = {prefix}\n{SECRET}\n");
        problems(&(keyspace("one", one) + &keyspace("two", other)))
    };
    assert_eq!(two("\"a_\"", "\"b_\""), [""; 0]);
    for (one, other) in [
        ("\"a_\"", "\"a_\""),
        ("\"a_\"", "\"a_b_\""),
        ("\"a_b_\"", "\"a_\""),
        ("{ dev = \"d_\", prod = \"p_\" }", "\"p_\""),
        ("{ dev = \"d_\", prod = \"p_\" }", "{ x = \"x_\", y = \"d_\" }"),
    ] {
        let found = two(one, other);
        assert!(found.len() == 1 && found[0].contains("share a secret prefix"), "{one} {other}: {found:?}");
    }
    assert!(two("\"kw_\"", "\"b_\"")[0].contains("\"keyward\" and \"one\" share"));
    assert!(two("{ a = \"s_\", b = \"s_t_\" }", "\"b_\"")[0].contains("begins with another"));
    assert!(two("\"key_\"", "\"b_\"")[0].contains("key ids"));
    assert!(two("{}", "\"b_\"")[0].contains("at least one environment"));
}

#[test]
fn each_setting_of_a_keyspace_is_checked() {
    for (more, expected) in [
        ("credential = \"cookie\"", "5: keyspace[0].credential: must be"),
        ("scopes = [\"a\"]\nadmin_scope = \"b\"", "6: keyspace[0].admin_scope: \"b\" is not in scopes"),
        ("scopes = [\"a\"]\ndefault_scopes = [\"b\"]", "6: keyspace[0].default_scopes: \"b\" is not in scopes"),
        ("scopes = [\"a b\"]", "5: keyspace[0].scopes: each scope must be"),
        ("scopes = \"a\"", "5: keyspace[0].scopes: must be a list of strings, not a string"),
        ("require = [\"name\"]", "5: keyspace[0].require: may hold"),
        ("default_ttl = \"0s\"", "5: keyspace[0].default_ttl: must be more than nothing"),
        ("default_ttl = \"11years\"", "5: keyspace[0].default_ttl: must be more than nothing and at most 10 years"),
        ("default_ttl = 90", "5: keyspace[0].default_ttl: must be a string, not an integer"),
        ("rate_limit = { limit = 0, window = \"60s\" }", "5: keyspace[0].rate_limit.limit: must be 1 to"),
        ("rate_limit = { limit = -5, window = \"60s\" }", "5: keyspace[0].rate_limit.limit: must be 1 to"),
        ("rate_limit = { limit = 5, window = \"1ms\" }", "5: keyspace[0].rate_limit.window: must be 1s to 366d"),
        ("rate_limit = { limit = 5, window = \"400d\" }", "5: keyspace[0].rate_limit.window: must be 1s to 366d"),
        ("rate_limit = { limit = 5 }", "5: keyspace[0].rate_limit: window is missing"),
        ("rate_limit = { window = \"60s\", limit = 5, burst = 1 }", "5: keyspace[0].rate_limit.burst: unknown setting"),
        ("rate_limit = 100", "5: keyspace[0].rate_limit: must be a table, not an integer"),
        ("public_create = \"yes\"", "5: keyspace[0].public_create: must be true or false, not a string"),
        ("pulbic_create = true", "5: keyspace[0].pulbic_create: unknown setting"),
    ] {
        let found = problems(&keyspace(more));
        assert!(found.iter().any(|problem| problem.starts_with(expected)), "{more}: {found:?}");
    }
}

#[test]
fn what_a_keyspace_lacks_is_said_once() {
    assert_eq!(
        problems("[[keyspace]]\n"),
        ["1: keyspace[0]: name is missing", "1: keyspace[0]: prefix is missing", "1: keyspace[0]: secret is missing"]
    );
    // A keyspace that cannot be used is there all the same for those that name it.
    let text = format!("[http]\ndefault_keyspace = \"x\"\n[[keyspace]]\nname = \"x\"\nprefix = 1\n{SECRET}\n");
    assert_eq!(problems(&text), ["5: keyspace[0].prefix: must be a string, not an integer"]);
}

#[test]
fn names_are_given_once_and_one_is_reserved() {
    let named =
        |name: &str, prefix: &str| format!("[[keyspace]]\nname = \"{name}\"\nprefix = \"{prefix}\"\n{SECRET}\n");
    let found = problems(&(named("x", "a_") + &named("x", "b_")));
    assert_eq!(found, ["6: keyspace[1].name: two keyspaces are named \"x\""]);
    let found = problems(&(named("keyward", "a_") + &named("y", "a_")));
    assert_eq!(found[0], "2: keyspace[0].name: \"keyward\" is reserved and cannot be configured");
    assert!(found[1].starts_with("7: keyspace[1].prefix: the keyspaces \"keyward\" and \"y\" share"), "{found:?}");
}

#[test]
fn every_place_where_the_text_is_no_toml_is_named() {
    let found = problems("a = \n[server]\nhttp_addr = \"127.0.0.1:1\n[http\n");
    let lines: Vec<&str> = found.iter().map(|problem| problem.split(':').next().unwrap()).collect();
    assert_eq!(lines, ["1", "3", "4"], "{found:?}");
    assert_eq!(problems("a = 1\na = 2\n").len(), 1);
}

#[test]
fn no_problem_repeats_a_password() {
    let text = "[database]\nurl = \"postgres://user:hunter2@[bad/db\"\nmigrate_url = \"mysql://user:hunter2@x\"";
    let found = problems(text);
    assert!(found.len() == 2 && !found.join("\n").contains("hunter2"), "{found:?}");
}

#[test]
fn webhooks_go_to_public_addresses_over_https_unless_told_otherwise() {
    let webhooks = good("").webhooks;
    assert_eq!(webhooks.egress, Egress::default());
    assert!(webhooks.deliver && !webhooks.egress.allow_http && webhooks.egress.allow_cidrs.is_empty());
    assert!(webhooks.egress.deny_ports.contains(&5_432));
    assert_eq!((webhooks.timeout, webhooks.retries.len()), (Duration::from_secs(15), 9));
    let webhooks = good(
        "[webhooks]\nallow_http = true\nallow_cidrs = [\"127.0.0.0/8\", \"::1\"]\ndeny_ports = [25, 22]\ntimeout = \"2s\"\n\
         retries = [\"5s\", \"1m\"]\nconcurrency = 8\nper_host = 2",
    )
    .webhooks;
    let allowed = ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    assert_eq!((webhooks.egress.allow_cidrs.as_slice(), webhooks.egress.deny_ports), (&allowed[..], vec![22, 25]));
    assert_eq!((webhooks.timeout, webhooks.retries), (Duration::from_secs(2), vec![5 * SECOND, 60 * SECOND]));
    assert_eq!((webhooks.egress.allow_http, webhooks.concurrency, webhooks.per_host), (true, 8, 2));
    let variable = environment(&[("KEYWARD_WEBHOOKS_DELIVER", "false")]);
    let text = "[webhooks]\ndeliver = true";
    assert!(!parse("f", text, &Flags::default(), &variable).unwrap().webhooks.deliver);
}

#[test]
fn each_setting_of_webhooks_is_checked() {
    let text = "[webhooks]\nallow_http = 1\nallow_cidrs = [\"all\"]\ndeny_ports = [0]\ntimeout = \"2m\"\nretries = [\"8d\"]\n\
                concurrency = 0\nper_host = 0\nproxy = \"x\"";
    assert_eq!(
        problems(text),
        [
            "2: webhooks.allow_http: must be true or false, not an integer",
            "3: webhooks.allow_cidrs: \"all\" is not a network such as 10.0.0.0/8",
            "4: webhooks.deny_ports: each must be 1 to 65535",
            "5: webhooks.timeout: must be a length of time from 100ms to 60s",
            "6: webhooks.retries: each must be a length of time up to 7d, such as \"5s\" or \"2h\"",
            "7: webhooks.concurrency: must be 1 to 4096",
            "8: webhooks.per_host: must be 1 to 1024",
            "9: webhooks.proxy: unknown setting",
        ]
    );
}

#[test]
fn events_are_told_and_kept_as_the_settings_say() {
    const DAY: i64 = 86_400 * SECOND;
    assert_eq!(good("").events, EventRules { expiring_before: vec![DAY, 7 * DAY], retention: 90 * DAY });
    let events = good("[events]\nexpiring_before = [\"30d\", \"1m\", \"30d\"]\nretention = \"1d\"").events;
    assert_eq!(events, EventRules { expiring_before: vec![60 * SECOND, 30 * DAY], retention: DAY });
    assert!(good("[events]\nexpiring_before = []").events.expiring_before.is_empty());
    assert_eq!(
        problems("[events]\nexpiring_before = [\"7d\", \"59s\"]\nretention = \"1h\"\nkeep = 1"),
        [
            "2: events.expiring_before: each must be whole seconds, from 1m to 365d, such as \"7d\"",
            "3: events.retention: must be a length of time from 1d to 3650d",
            "4: events.keep: unknown setting",
        ]
    );
}
