//! The dashboard in a real browser: Debian's Chromium, driven by `dashboard.mjs`. Every page with and without script, no
//! error in the console, axe, keyboard alone, 320 to 1,600 pixels. `KEYWARD_TEST_PICTURES` is a folder for pictures.

#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/mod.rs"]
mod support;

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::support::{Server, Setup, oidc::Provider, server::ROOT};

/// Runs the script; its summary. `on_line` gets each line that it writes meanwhile.
fn drive(settings: &Value, mut on_line: impl FnMut(&str)) -> Value {
    let folder = std::env::var("KEYWARD_TEST_BROWSER").expect("KEYWARD_TEST_BROWSER: tests/run sets it");
    let mut node = Command::new("node");
    node.arg("dashboard.mjs").current_dir(folder).env("SETTINGS", settings.to_string());
    let mut child = node.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let errors = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || std::io::read_to_string(errors).unwrap());
    let mut last = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        last = line.unwrap();
        on_line(&last);
    }
    let status = child.wait().unwrap();
    let errors = errors.join().unwrap();
    assert!(status.success(), "{errors}\n{last}");
    let summary: Value = serde_json::from_str(&last).unwrap();
    println!("{summary}");
    summary
}

fn at(server: &Server) -> String {
    format!("http://{}", server.http)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_and_flow_in_a_real_browser() {
    let server = Setup::new().start();
    let summary = drive(&json!({"origin": at(&server), "root": ROOT}), |_| {});
    assert_eq!((&summary["flows"], &summary["axe"]), (&json!(3), &json!(28)), "{summary}");
    assert!(!server.log().contains("ak_"), "a secret is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_at_a_provider_in_a_real_browser() {
    let provider = Provider::start();
    let client = "dashboard = { client_id = \"keyward\", client_secret = \"test\" }";
    let table = provider.table("dashboard-api", &["norrix"], client);
    let server = Setup::new().ready("norrix").and(&table).start();
    for name in ["one", "two"] {
        server.create(json!({"name": name, "orgId": "acme"})).await;
    }
    // The switch of organizations has a name that is as long as names may be.
    let long = "g".repeat(120);
    let logins = [format!("olga/acme+globex+{long}/owner"), "adam/acme/admin".to_owned(), "mia/acme/member".to_owned()];
    let settings = json!({"origin": at(&server), "root": ROOT, "logins": logins, "issuer": provider.issuer});
    let summary = drive(&settings, |_| {});
    assert_eq!((&summary["flows"], &summary["axe"]), (&json!(6), &json!(5)), "{summary}");
}

/// Three replicas, one of which stands still: the page waits for it, and says when it is certain.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_waits_for_a_replica_and_updates_by_itself() {
    let url = postgres::fresh_database().await;
    let start = || Setup::new().database(&url).env("KEYWARD_REPLICA_LEASE", "60s").start();
    let (one, _two, three) = (start(), start(), start());
    let made = one.create(json!({"name": "waits"})).await;
    let id = made["id"].as_str().unwrap();
    three.signal("STOP");
    let revoke = one.rest("DELETE", &format!("/api/api-keys/{id}")).bearer_auth(ROOT).send().await.unwrap();
    assert_eq!(revoke.status(), 503, "one replica cannot have applied it");
    let path = format!("/dashboard/settings/api-keys/{id}/revocation");
    let summary = drive(&json!({"origin": at(&one), "root": ROOT, "pending": path}), |line| {
        if line == "RESUME" {
            three.signal("CONT");
        }
    });
    assert_eq!(summary["flows"], 2, "{summary}");
}

/// The pictures of the documents, with keys that people could have.
#[tokio::test(flavor = "multi_thread")]
async fn pictures() {
    let Ok(folder) = std::env::var("KEYWARD_TEST_PICTURES") else { return };
    let server = Setup::new().ready("all").start();
    for (name, body) in [
        ("Old laptop", json!({"keyspace": "norrix", "orgId": "acme", "scopes": ["build"]})),
        ("Jenkins", json!({"keyspace": "norrix", "orgId": "acme", "scopes": ["build", "submit"], "expiresInDays": 5})),
        (
            "backend-2026-04",
            json!({"keyspace": "nora", "orgId": "globex", "instanceId": "eu-1", "environment": "production"}),
        ),
        (
            "staging checks",
            json!({"keyspace": "nora", "orgId": "globex", "instanceId": "eu-1", "environment": "sandbox"}),
        ),
        ("docs search", json!({"keyspace": "noro"})),
        ("GitLab runner", json!({"keyspace": "norrix", "orgId": "acme", "scopes": ["build"], "expiresInDays": 365})),
        (
            "GitHub Actions",
            json!({"keyspace": "norrix", "orgId": "acme", "scopes": ["build", "submit", "update"], "expiresInDays": 90,
                "webhook": "https://hooks.acme.example/keyward", "metadata": {"team": "release"}}),
        ),
        ("Nightly OTA", json!({"keyspace": "norrix", "orgId": "acme", "scopes": ["update"]})),
    ] {
        let mut body = body;
        body["name"] = name.into();
        let made = server.create(body).await;
        let uses = match name {
            "GitHub Actions" => 12,
            "Jenkins" => 5,
            "backend-2026-04" => 3,
            _ => 0,
        };
        for _ in 0..uses {
            server.call("POST", "/api/v1/verify", Some(ROOT), json!({"secret": made["key"]})).await;
        }
        if name == "staging checks" {
            let path = format!("/api/api-keys/{}", made["id"].as_str().unwrap());
            server.call("DELETE", &path, Some(ROOT), json!({"reason": "Rotated"})).await;
        }
    }
    drive(&json!({"origin": at(&server), "root": ROOT, "pictures": folder}), |_| {});
}
