//! The commands of the server, which are not for people.

use crate::support::{Setup, cli::Machine};

#[test]
fn config_show_prints_every_setting_with_its_origin_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let config = "[server]\nlog_calls = true\n\n[http]\nenvironment = \"\"\n";
    let config = config.replace("log_calls = true\n", "");
    let setup = Setup::new().config(&config).database("postgres://keyward:s3cret@db.example/keyward?sslmode=require");
    let mut command = setup.command(folder.path(), &["config", "show", "--http-addr", "127.0.0.1:7000"]);
    let output = command.env("KEYWARD_REPLICA_LEASE", "5s").output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{shown} {}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "url = \"postgres://keyward:(hidden)@db.example/keyward?(hidden)\"  # DATABASE_URL",
        "http_addr = \"127.0.0.1:7000\"  # --http-addr",
        "lease = \"5s\"  # KEYWARD_REPLICA_LEASE",
        "environment = \"\"  # line 4",
        "idle_timeout = \"75s\"  # default",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    for secret in ["s3cret", crate::support::server::ROOT] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(shown.contains("KEYWARD_ROOT_KEY"), "that it is set is shown: {shown}");
}

#[test]
fn config_show_prints_every_table_of_a_list() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Setup::new().ready("all").command(folder.path(), &["config", "show"]);
    let shown = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert_eq!(shown.matches("[[keyspace]]").count(), 3, "{shown}");
    assert!(shown.contains("prefix = \"nrx_\"  # line "), "{shown}");
}

#[test]
fn config_show_reports_problems_like_check() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Setup::new().config("[server]\nnothing = 1").command(folder.path(), &["config", "show"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("server.nothing: unknown setting"), "{output:?}");
}

#[test]
fn config_check_warns_of_routes_that_never_count_and_of_methods_that_no_client_sends() {
    let folder = tempfile::tempdir().unwrap();
    let routes = "[[keyspace.route]]\npath = \"/a/*\"\n[[keyspace.route]]\npath = \"/a/b\"\n\
                  [[keyspace.route]]\npath = \"/b//c\"\n[[keyspace.route]]\nmethods = [\"Get\"]\npath = \"/d\"\n";
    let keyspace =
        "[[keyspace]]\nname = \"a\"\nprefix = \"a_\"\nsecret = { encoding = \"alphanumeric\", length = 40 }\n";
    let mut command = Setup::new().config(&format!("{keyspace}{routes}")).command(folder.path(), &["config", "check"]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
    for warning in [
        "keyspace[0].route[1].path: the route never counts",
        "keyspace[0].route[2].path: never fits a request",
        "keyspace[0].route[3].methods: no client sends \"Get\"",
    ] {
        let line = text.lines().find(|line| line.contains(warning));
        assert!(line.is_some_and(|line| line.starts_with("warning: ")), "{warning}: {text}");
    }
    // Warnings are no problems.
    assert!(output.status.success(), "{text}");
}

#[test]
fn flags_of_clients_are_none_of_the_server() {
    let machine = Machine::new();
    machine.run(&["--dev", "config", "check"]).failed(2);
    machine.run(&["config", "check", "--dev"]).failed(2);
    machine.run(&["config", "check"]).good();
}
