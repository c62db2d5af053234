//! Prompts, colours and widths in a real terminal.

use serde_json::json;

use crate::support::{Server, Setup, cli::Machine, oidc::Provider, server::ROOT};

/// How a spinner goes away.
const ERASED: &str = "\r\x1b[2K";

fn norrix() -> (Server, Machine) {
    let server = Setup::new().ready("norrix").start();
    let machine = Machine::new().pipeline(&server, ROOT);
    (server, machine)
}

async fn session(provider: &Provider) -> (Server, Machine) {
    let server = Setup::new().ready("norrix").and(&provider.table("cli", &["norrix"], "")).start();
    let machine = Machine::new();
    let token = provider.token("cli", "olga", &json!({"acme": "owner", "globex": "admin"})).await;
    machine.signed_in("prod", &server, provider, &token);
    (server, machine)
}

#[tokio::test]
async fn revoking_asks_by_name() {
    let (server, machine) = norrix();
    let key = server.create(json!({"name": "GitHub Actions", "keyspace": "norrix", "orgId": "acme"})).await;
    let id = key["id"].as_str().unwrap();
    let status = |machine: &Machine| machine.run(&["keys", "get", id, "-o", "json"]).json()["status"].clone();
    for answer in ["n", "\x1b", "\x03"] {
        let mut terminal = machine.in_terminal(&["keys", "revoke", id]);
        terminal.wait_for("GitHub Actions");
        terminal.wait_for("Revoke this key for good?");
        terminal.type_in(answer);
        let (code, shown) = terminal.end();
        assert_eq!(code, Some(2), "{answer:?}: {shown}");
        let plain = console::strip_ansi_codes(&shown).into_owned();
        assert!(plain.lines().any(|line| line == "keyward: cancelled"), "a line of its own: {plain:?}");
        assert_eq!(status(&machine), "active", "{answer:?}");
    }
    let mut terminal = machine.in_terminal(&["keys", "revoke", id]);
    terminal.wait_for("for good?");
    terminal.type_in("y");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("certain on every replica"), "{shown}");
    assert_eq!(status(&machine), "revoked");
    // --yes asks nobody.
    let (code, shown) = machine.in_terminal(&["keys", "revoke", id, "--yes"]).end();
    assert!(code == Some(0) && !shown.contains("for good?"), "{shown}");
}

#[tokio::test]
async fn an_organization_is_chosen_with_the_arrow_keys() {
    let provider = Provider::start();
    let (_server, machine) = session(&provider).await;
    let mut terminal = machine.in_terminal(&["orgs", "select"]);
    terminal.wait_for("Organization");
    terminal.wait_for("globex (admin)");
    terminal.type_in("\x1b[B");
    terminal.type_in("\r");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(machine.run(&["orgs", "current"]).good(), "globex\n");
    // Ctrl-C and Escape choose nothing, and leave the terminal as it was.
    for key in ["\x03", "\x1b"] {
        let mut terminal = machine.in_terminal(&["orgs", "select"]);
        terminal.wait_for("acme (owner)");
        terminal.type_in("\x1b[A");
        terminal.type_in(key);
        let (code, shown) = terminal.end();
        assert_eq!(code, Some(2), "{key:?}: {shown}");
        assert_eq!(machine.run(&["orgs", "current"]).good(), "globex\n");
    }
}

#[tokio::test]
async fn a_secret_is_not_shown_while_it_is_typed() {
    let (server, machine) = norrix();
    let key = server.create(json!({"name": "ci", "keyspace": "norrix", "orgId": "acme"})).await;
    let secret = key["key"].as_str().unwrap();
    let mut terminal = machine.in_terminal(&["keys", "verify"]);
    terminal.wait_for("Secret");
    terminal.wait_for_hidden_input();
    terminal.type_in(&format!("{secret}\r"));
    let (code, shown) = terminal.end();
    assert!(code == Some(0) && shown.contains("VALID") && !shown.contains(secret), "{shown}");
    let mut terminal = machine.in_terminal(&["keys", "verify"]);
    terminal.wait_for("Secret");
    terminal.wait_for_hidden_input();
    terminal.type_in("\x03");
    assert_eq!(terminal.end().0, Some(2));
}

#[tokio::test]
async fn tables_fit_the_terminal_and_are_coloured_there_alone() {
    let (server, mut machine) = norrix();
    let name = "a rather long name for a key that deploys everything to everywhere 日本語";
    server.create(json!({"name": name, "keyspace": "norrix", "orgId": "acme"})).await;
    let (code, shown) = machine.in_terminal(&["keys", "list"]).end();
    assert_eq!(code, Some(0));
    assert!(shown.contains("\x1b[32mactive"), "{shown}");
    for line in shown.lines() {
        // A spinner before it was erased.
        let plain = console::strip_ansi_codes(line.rsplit(ERASED).next().unwrap());
        assert!(console::measure_text_width(plain.trim_end()) <= 80, "{plain}");
    }
    let id = machine.run(&["keys", "list", "-o", "id"]).good();
    assert!(shown.contains('…') && shown.contains(id.trim()), "ids are not cut off: {shown}");
    // The ids of an event and of its key are not cut off either.
    let (_, shown) = machine.in_terminal(&["events", "list"]).end();
    let event = machine.run(&["events", "list", "-o", "id"]).good();
    assert!(shown.contains(id.trim()) && shown.contains(event.trim()), "{shown}");
    machine.set("NO_COLOR", "1");
    let (_, shown) = machine.in_terminal(&["keys", "list"]).end();
    assert!(!shown.replace(ERASED, "").contains('\x1b'), "{shown:?}");
}

/// Half a column says nothing: the last ones are left out.
#[tokio::test]
async fn a_narrow_terminal_has_fewer_columns_and_each_can_be_read() {
    let (server, machine) = norrix();
    server.create(json!({"name": "deploy", "keyspace": "norrix", "orgId": "acme"})).await;
    let id = machine.run(&["keys", "list", "-o", "id"]).good();
    for (columns, shown, hidden) in [
        (50, vec!["NAME", "PREFIX", "SCOPES", "STATUS"], vec!["EXPIRES", "CREATED BY"]),
        (66, vec!["NAME", "PREFIX", "SCOPES", "STATUS", "LAST USED", "EXPIRES"], vec!["CREATED BY"]),
        (76, vec!["NAME", "LAST USED", "EXPIRES", "CREATED BY"], vec![]),
    ] {
        let (code, screen) = machine.in_terminal_of(columns, &["keys", "list"]).end();
        let screen = console::strip_ansi_codes(&screen).into_owned();
        assert!(code == Some(0) && screen.contains(id.trim()), "{screen}");
        for title in shown {
            assert!(screen.contains(title), "{columns}: {title}: {screen}");
        }
        for title in hidden {
            assert!(!screen.contains(title), "{columns}: {title}: {screen}");
        }
        assert!(screen.contains("deploy") && screen.contains("active"), "{columns}: {screen}");
    }
}

#[tokio::test]
async fn a_sign_in_can_be_cancelled() {
    let provider = Provider::start();
    let cli = "cli = { client_id = \"cli\" }";
    let server = Setup::new().ready("norrix").and(&provider.table("cli", &["norrix"], cli)).start();
    let machine = Machine::new();
    let mut terminal = machine.in_terminal(&["login", &format!("http://{}", server.http), "--no-browser"]);
    terminal.wait_for("code_challenge");
    // The spinner comes after half a second.
    terminal.wait_for("waiting for the browser");
    terminal.type_in("\x03");
    assert_eq!(terminal.end().0, Some(2));
    assert!(!machine.kept().join("prod/tokens.json").exists());
}
