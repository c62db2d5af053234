//! `keys` and `events`, by a key in the environment as a pipeline has it.

use serde_json::{Value, json};

use crate::support::{Server, Setup, cli::Machine, server::ROOT};

/// A server of Norrix, and a pipeline with an admin key of `acme`.
async fn norrix() -> (Server, Machine, Value) {
    let server = Setup::new().ready("norrix").start();
    let admin = server.create(json!({"name": "admin", "orgId": "acme", "scopes": ["admin"]})).await;
    let machine = Machine::new().pipeline(&server, admin["key"].as_str().unwrap());
    (server, machine, admin)
}

fn id_by_name(machine: &Machine, name: &str) -> String {
    let keys = machine.run(&["keys", "list", "-o", "json"]).json();
    let key = keys.as_array().unwrap().iter().find(|key| key["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    key["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn create_prints_the_secret_alone_and_the_rest_on_standard_error() {
    let (server, machine, _) = norrix().await;
    let ran = machine.run(&["keys", "create", "ci", "--scope", "build", "--expires", "90d", "--metadata", "team=a=b"]);
    let err = ran.err.clone();
    let secret = ran.good();
    assert!(secret.starts_with("nrx_") && secret.ends_with('\n') && secret.lines().count() == 1, "{secret}");
    let secret = secret.trim();
    assert!(!err.contains(secret) && err.contains("build") && err.contains("acme"), "{err}");
    let (_, verdict) = server.call("POST", "/api/v1/verify", Some(ROOT), json!({"secret": secret})).await;
    assert_eq!((&verdict["code"], &verdict["metadata"]), (&json!("VALID"), &json!({"team": "a=b"})));
    // Quietly: nothing else at all.
    let ran = machine.run(&["keys", "create", "quiet", "-q"]);
    assert_eq!(ran.err, "");
    assert!(ran.good().starts_with("nrx_"));
    // As JSON: what REST answers, with the secret.
    let made = machine.run(&["keys", "create", "json", "--scope", "build,submit", "-o", "json"]).json();
    assert!(made["key"].as_str().unwrap().starts_with("nrx_"));
    assert_eq!((&made["scopes"], &made["orgId"]), (&json!(["build", "submit"]), &json!("acme")));
    // Ids alone would lose the secret.
    assert!(machine.run(&["keys", "create", "lost", "-o", "id"]).failed(2).contains("would lose the secret"));
}

#[tokio::test]
async fn expiry_is_a_time_or_a_date() {
    let (_server, machine, _) = norrix().await;
    let expires = |text: &str| {
        let made = machine.run(&["keys", "create", "n", "--expires", text, "-o", "json"]).json();
        made["expiresAt"].as_str().unwrap().to_owned()
    };
    assert_eq!(expires("2030-12-31"), "2030-12-31T00:00:00.000Z");
    assert_eq!(expires("2030-12-31T12:00:00Z"), "2030-12-31T12:00:00.000Z");
    assert!(expires("36h") < expires("90d"));
    assert!(machine.run(&["keys", "create", "n", "--expires", "soon"]).failed(2).contains("--expires soon"));
    // Rules are the service's, with its sentence.
    let past = machine.run(&["keys", "create", "n", "--expires", "2020-01-01"]).failed(1);
    assert!(past.contains("expiresAt: must be in the future"), "{past}");
    assert!(machine.run(&["keys", "create", "n", "--metadata", "x"]).failed(2).contains("NAME=VALUE"));
    let scope = machine.run(&["keys", "create", "n", "--scope", "fly"]).failed(1);
    assert!(scope.contains("scopes:"), "{scope}");
}

#[tokio::test]
async fn list_shows_what_a_manager_looks_for() {
    let (_server, machine, admin) = norrix().await;
    machine.run(&["keys", "create", "GitHub Actions", "--scope", "build", "--expires", "90d", "-q"]).good();
    let table = machine.run(&["keys", "list"]).good();
    let lines: Vec<&str> = table.lines().collect();
    for title in ["NAME", "ID", "PREFIX", "SCOPES", "STATUS", "LAST USED", "EXPIRES", "CREATED BY"] {
        assert!(lines[0].contains(title), "{table}");
    }
    let by = format!("key:{}", admin["id"].as_str().unwrap());
    for shown in ["GitHub Actions", "key_", "nrx_", "build", "active", "never", "in 90 days", by.as_str()] {
        assert!(lines[1].contains(shown), "{shown}: {table}");
    }
    assert!(!table.contains('\x1b'), "no colour in a pipe");
    let ids = machine.run(&["keys", "list", "-o", "id"]).good();
    assert_eq!(ids.lines().count(), 2);
    let active = machine.run(&["keys", "list", "--status", "revoked"]);
    assert!(active.err.contains("There are no keys"), "{active:?}");
    assert!(machine.run(&["keys", "list", "--status", "dead"]).failed(2).contains("active, revoked, expired"));
}

#[tokio::test]
async fn pages_are_fetched_until_there_is_enough() {
    let (server, machine, _) = norrix().await;
    for at in 0..5 {
        server.create(json!({"name": format!("k{at}"), "orgId": "acme"})).await;
    }
    let few = machine.run(&["keys", "list", "--limit", "2", "-o", "jsonl"]);
    assert!(few.err.contains("newest 2") && few.err.contains("--all"), "{few:?}");
    let names: Vec<Value> =
        few.good().lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["name"].clone()).collect();
    assert_eq!(names, ["k4", "k3"]);
    let all = machine.run(&["keys", "list", "--all", "-o", "id"]);
    assert_eq!(all.err, "");
    assert_eq!(all.good().lines().count(), 6);
}

#[tokio::test]
async fn get_shows_one_key() {
    let (_server, machine, _) = norrix().await;
    machine.run(&["keys", "create", "ci", "-q"]).good();
    let id = id_by_name(&machine, "ci");
    let shown = machine.run(&["keys", "get", &id]).good();
    for part in ["ci", &id, "nrx_", "build,submit,update", "active", "acme"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(machine.run(&["keys", "get", &id, "-o", "json"]).json()["id"], id);
    let none = machine.run(&["keys", "get", "key_01h455vb4pex5vsknk084sn02q"]).failed(1);
    assert_eq!(none, "keyward: No such API key\n");
}

#[tokio::test]
async fn revoke_says_when_it_is_certain() {
    let (server, machine, _) = norrix().await;
    let secret = machine.run(&["keys", "create", "ci", "-q"]).good();
    let id = id_by_name(&machine, "ci");
    // Nobody can be asked here.
    let refused = machine.run(&["keys", "revoke", &id]).failed(2);
    assert!(refused.contains("--yes"), "{refused}");
    let ran = machine.run(&["keys", "revoke", &id, "--yes", "--reason", "leaked"]);
    assert!(ran.err.contains("certain on every replica after") && ran.err.contains("(ci)"), "{ran:?}");
    assert_eq!(ran.good(), "");
    let (_, verdict) = server.call("POST", "/api/v1/verify", Some(ROOT), json!({"secret": secret.trim()})).await;
    assert_eq!(verdict["code"], "REVOKED");
    let events = machine.run(&["events", "list", "--type", "key.revoked", "-o", "json"]).json();
    assert_eq!((&events[0]["keyId"], &events[0]["data"]["revokeReason"]), (&json!(id), &json!("leaked")));
    // Again: unchanged. One that does not exist fails, and the others are still revoked.
    machine.run(&["keys", "create", "second", "-q"]).good();
    let second = id_by_name(&machine, "second");
    let ran = machine.run(&["keys", "revoke", "key_01h455vb4pex5vsknk084sn02q", &second, &id, "-y", "-o", "jsonl"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("key_01h455vb4pex5vsknk084sn02q: No such API key"), "{ran:?}");
    assert_eq!(ran.out.lines().count(), 2, "{ran:?}");
}

#[tokio::test]
async fn rotate_makes_a_key_like_the_old_one_and_says_how_to_end_that() {
    let (server, machine, _) = norrix().await;
    let body = json!({
        "name": "deploy", "orgId": "acme", "scopes": ["submit"], "expiresInDays": 30, "metadata": {"team": "x"},
    });
    let old = server.create(body).await;
    let id = old["id"].as_str().unwrap();
    let ran = machine.run(&["keys", "create", "--rotate", id, "-o", "json"]);
    assert!(ran.err.contains(&format!("keyward keys revoke {id} --reason rotated")), "{ran:?}");
    let new = ran.json();
    assert_ne!(new["id"], old["id"]);
    for field in ["name", "scopes", "orgId", "instanceId", "environment", "metadata"] {
        assert_eq!(new[field], old[field], "{field}");
    }
    assert_eq!(new["expiresAt"].as_str().unwrap()[..10], old["expiresAt"].as_str().unwrap()[..10]);
    assert_eq!(
        machine.run(&["keys", "get", id, "-o", "json"]).json()["status"],
        "active",
        "the old one is still there"
    );
    // What is given counts.
    let narrow = machine.run(&["keys", "create", "narrow", "--rotate", id, "--expires", "10d", "-o", "json"]).json();
    assert_eq!((&narrow["name"], &narrow["scopes"]), (&json!("narrow"), &json!(["submit"])));
}

/// An operator has several keyspaces, and a key's record does not name its own.
#[tokio::test]
async fn rotate_finds_the_keyspace() {
    let server = Setup::new().ready("all").start();
    let machine = Machine::new().pipeline(&server, ROOT);
    let body = json!({"name": "n", "keyspace": "nora", "orgId": "o", "instanceId": "i", "environment": "sandbox"});
    let old = server.create(body).await;
    let new = machine.run(&["keys", "create", "--rotate", old["id"].as_str().unwrap(), "-o", "json"]).json();
    assert!(new["key"].as_str().unwrap().starts_with("sk_test_"), "{new}");
    assert_eq!((&new["instanceId"], &new["environment"]), (&json!("i"), &json!("sandbox")));
}

#[tokio::test]
async fn verify_reads_the_secret_from_standard_input_and_exits_with_3() {
    let server = Setup::new().ready("norrix").start();
    let service = server.create(json!({"name": "api", "keyspace": "keyward", "scopes": ["verify"]})).await;
    let machine = Machine::new().pipeline(&server, service["key"].as_str().unwrap());
    let key = server.create(json!({"name": "ci", "keyspace": "norrix", "orgId": "acme", "scopes": ["build"]})).await;
    let secret = key["key"].as_str().unwrap();
    let good = machine.run_with_input(&["keys", "verify", "--scope", "build", "--org", "acme"], &format!("{secret}\n"));
    let shown = good.good();
    assert!(shown.contains("VALID") && shown.contains("ci") && !shown.contains(secret), "{shown}");
    let lacking = machine.run_with_input(&["keys", "verify", "--scope", "submit", "-o", "json"], secret);
    assert_eq!(lacking.code, Some(3));
    let verdict: Value = serde_json::from_str(&lacking.out).unwrap();
    assert_eq!(verdict["code"], "INSUFFICIENT_SCOPE");
    let wrong = machine.run_with_input(&["keys", "verify"], "nrx_nothing");
    assert_eq!((wrong.code, wrong.out.contains("MALFORMED")), (Some(3), true), "{wrong:?}");
    assert!(machine.run_with_input(&["keys", "verify"], "").failed(2).contains("no secret"));
    // A secret is never an argument.
    machine.run(&["keys", "verify", secret]).failed(2);
    // No session may verify: that is said before anybody types a secret.
    let session = Machine::new().run(&["keys", "verify"]).failed(4);
    assert!(session.contains("operators and services") && session.contains("Set KEYWARD_API_KEY"), "{session}");
}

#[tokio::test]
async fn a_key_of_a_product_that_reads_x_api_key_is_sent_there() {
    let server = Setup::new().ready("nora").start();
    let body = json!({"name": "n", "keyspace": "nora", "orgId": "o", "instanceId": "i", "environment": "sandbox"});
    let key = server.create(body).await;
    let machine = Machine::new().pipeline(&server, key["key"].as_str().unwrap());
    assert_eq!(machine.run(&["whoami", "-o", "json"]).json()["keyId"], key["id"]);
}

#[tokio::test]
async fn a_webhook_is_set_and_removed_and_its_events_are_delivered() {
    let (_server, machine, _) = norrix().await;
    machine.run(&["keys", "create", "ci", "-q"]).good();
    let id = id_by_name(&machine, "ci");
    let ran = machine.run(&["keys", "webhook", &id, "https://hooks.example.com/keys"]);
    assert!(ran.err.contains("hooks.example.com"), "{ran:?}");
    let secret = ran.good();
    assert!(secret.starts_with("whsec_") && secret.lines().count() == 1, "{secret}");
    let event = machine.run(&["events", "list", "--key", &id, "--type", "webhook.updated", "-o", "json"]).json();
    let event = event[0]["id"].as_str().unwrap().to_owned();
    let deliveries = machine.run(&["events", "deliveries", &event, "-o", "json"]).json();
    assert_eq!(deliveries[0]["host"], "hooks.example.com", "{deliveries}");
    assert!(machine.run(&["events", "deliveries", &event]).good().contains("pending"));
    assert!(machine.run(&["events", "redeliver", &event]).good().contains("pending"));
    let removed = machine.run(&["keys", "webhook", &id, ""]);
    assert!(removed.err.contains("are sent to no webhook"), "{removed:?}");
    assert_eq!(removed.good(), "");
    let table = machine.run(&["events", "list"]).good();
    assert!(table.contains("webhook.updated") && table.contains("key.created"), "{table}");
    let plain = machine.run(&["events", "list", "--type", "key.created", "--key", &id, "-o", "id"]).good();
    machine.run(&["events", "redeliver", plain.trim()]).failed(1);
    assert!(machine.run(&["events", "list", "--since", "soon"]).failed(2).contains("--since"));
}
