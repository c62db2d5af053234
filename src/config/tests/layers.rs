use std::{collections::HashMap, time::Duration};

use super::environment;
use crate::config::{DatabaseUrl, Flags, Origin, parse};

#[test]
fn a_flag_overrides_the_environment_which_overrides_the_file_which_overrides_the_default() {
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

    let origins = parse("f", text, &flags, &variables).unwrap().origins;
    assert_eq!(origins.of("server.http_addr"), Origin::Flag("--http-addr"));
    assert_eq!(origins.of("replica.lease"), Origin::Environment("KEYWARD_REPLICA_LEASE"));
    assert_eq!(parse("f", text, &none.0, &none.1).unwrap().origins.of("replica.lease"), Origin::File(6));
    assert_eq!(origins.of("replica.cache"), Origin::Default);
}

#[test]
fn a_problem_of_a_variable_or_a_flag_names_it() {
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
    let flags = Flags { database_url: Some("x".to_owned()), ..Flags::default() };
    let problems = parse("", "", &flags, &HashMap::new()).unwrap_err();
    assert!(problems[0].starts_with("--database-url: "), "{problems:?}");
}

#[test]
fn a_root_key_has_at_least_32_characters_and_a_master_key_32_bytes() {
    let master = data_encoding::BASE64.encode(&[7; 32]);
    let variables =
        environment(&[("KEYWARD_ROOT_KEY", "Zk3vQ9xN2bLr7TfYw5HcGm8PdJs4RaUe"), ("KEYWARD_MASTER_KEY", &master)]);
    let config = parse("", "", &Flags::default(), &variables).unwrap();
    assert_eq!(*config.master_keys[0], [7; 32]);
    assert!(config.root_key.is_some());
}
