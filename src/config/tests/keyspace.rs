use super::{SECRET, keyspace, problems, valid_config};
use crate::domain::{keyspace::Prefixes, secret::Encoding};

#[test]
fn the_reserved_keyspace_always_exists() {
    for config in [valid_config(""), valid_config(&keyspace(""))] {
        let reserved = config.registry.by_name("keyward").unwrap();
        assert_eq!(reserved.prefixes, Prefixes::One("kw_".to_owned()));
        assert_eq!(reserved.encoding, Encoding::Alphanumeric { length: 40 });
        assert_eq!(reserved.scopes.as_deref(), Some(&["root".to_owned(), "verify".to_owned()][..]));
    }
}

#[test]
fn a_secret_needs_96_random_bits_beyond_its_displayed_prefix() {
    // 12 characters are displayed, 6 are the checksum, and a character has a little under 6 bits.
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
    // 8 characters of the body are displayed: 48 bits.
    assert_eq!(problem("nrx_", &base64url(18)), [""; 0]);
    assert_eq!(problem("nrx_", &base64url(17)).len(), 1);
}

#[test]
fn no_secret_prefix_begins_with_another() {
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
fn a_missing_setting_of_a_keyspace_is_reported_once() {
    assert_eq!(
        problems("[[keyspace]]\n"),
        ["1: keyspace[0]: name is missing", "1: keyspace[0]: prefix is missing", "1: keyspace[0]: secret is missing"]
    );
    // A keyspace with a problem still exists for the settings that name it.
    let text = format!("[http]\ndefault_keyspace = \"x\"\n[[keyspace]]\nname = \"x\"\nprefix = 1\n{SECRET}\n");
    assert_eq!(problems(&text), ["5: keyspace[0].prefix: must be a string, not an integer"]);
}

#[test]
fn keyspace_names_are_unique_and_keyward_is_reserved() {
    let named =
        |name: &str, prefix: &str| format!("[[keyspace]]\nname = \"{name}\"\nprefix = \"{prefix}\"\n{SECRET}\n");
    let found = problems(&(named("x", "a_") + &named("x", "b_")));
    assert_eq!(found, ["6: keyspace[1].name: two keyspaces are named \"x\""]);
    let found = problems(&(named("keyward", "a_") + &named("y", "a_")));
    assert_eq!(found[0], "2: keyspace[0].name: \"keyward\" is reserved and cannot be configured");
    assert!(found[1].starts_with("7: keyspace[1].prefix: the keyspaces \"keyward\" and \"y\" share"), "{found:?}");
}
