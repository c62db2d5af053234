//! Sessions that are kept: how they are renewed, and how they end.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::support::{
    Server, Setup,
    cli::{Machine, Started},
    oidc::Provider,
    reply::until,
};

fn norrix(provider: &Provider) -> Server {
    let cli = "cli = { client_id = \"cli\", scopes = [\"openid\"] }";
    Setup::new().ready("norrix").and(&provider.table("dashboard", &["norrix"], cli)).start()
}

async fn signed_in(provider: &Provider) -> (Server, Machine) {
    let server = norrix(provider);
    let machine = Machine::new();
    machine.sign_in(&["login", &format!("http://{}", server.http)], "olga/acme/owner").await.good();
    (server, machine)
}

fn tokens(machine: &Machine) -> Value {
    serde_json::from_str(&std::fs::read_to_string(machine.kept().join("prod/tokens.json")).unwrap()).unwrap()
}

/// Makes the kept token look as if its time had passed.
fn age(machine: &Machine, seconds: i64) {
    let mut kept = tokens(machine);
    kept["received_at"] = (kept["received_at"].as_i64().unwrap() - seconds).into();
    machine.keep("prod", "tokens.json", &kept.to_string());
}

#[tokio::test]
async fn files_are_private() {
    let provider = Provider::start();
    let (_server, machine) = signed_in(&provider).await;
    let mode = |path: &str| std::fs::metadata(machine.kept().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("prod")), (0o700, 0o700));
    for file in ["prod/tokens.json", "prod/settings.json", "prod/lock"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    let kept = tokens(&machine);
    assert!(kept["id_token"].is_string() && kept["refresh_token"].is_string());
    assert_eq!(kept.get("access_token"), None, "nothing uses it");
}

#[tokio::test]
async fn a_token_that_is_about_to_expire_is_renewed_by_one_process() {
    let provider = Provider::start();
    let (_server, machine) = signed_in(&provider).await;
    let before = tokens(&machine);
    machine.run(&["whoami"]).good();
    assert_eq!(tokens(&machine), before, "a fresh token stays");
    age(&machine, 3_590);
    let asked = provider.requests("POST /token");
    // Each refresh token is good for one use: a second use would end the whole session.
    let started: Vec<_> = (0..6).map(|_| Started::new(machine.command(&["whoami"]))).collect();
    for each in started {
        each.end().await.good();
    }
    assert_eq!(provider.requests("POST /token"), asked + 1);
    let after = tokens(&machine);
    assert_ne!((&after["id_token"], &after["refresh_token"]), (&before["id_token"], &before["refresh_token"]));
    // A clock that was set back says nothing about the age.
    age(&machine, -7_200);
    machine.run(&["whoami"]).good();
    assert_eq!(provider.requests("POST /token"), asked + 2);
}

/// This machine's clock may be wrong: whether a token has expired is the service's to say.
#[tokio::test]
async fn a_token_that_the_service_finds_expired_is_renewed() {
    let provider = Provider::start();
    let (_server, machine) = signed_in(&provider).await;
    let mut kept = tokens(&machine);
    let old = provider.sign("first", &provider.claims("cli", &json!({"exp": 1_700_000_000})));
    kept["id_token"] = old.clone().into();
    machine.keep("prod", "tokens.json", &kept.to_string());
    machine.run(&["whoami"]).good();
    assert_ne!(tokens(&machine)["id_token"], old.as_str());
}

/// The issuer takes a refresh token once. If Ctrl-C lost the next one, the session would be over.
#[tokio::test]
async fn ctrl_c_does_not_lose_a_token_that_is_being_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    std::fs::write(&gate, "").unwrap();
    let provider = Provider::with_environment(&[("TOKEN_GATE", gate.to_str().unwrap())]);
    let (_server, machine) = signed_in(&provider).await;
    let renewing = async || {
        age(&machine, 3_590);
        std::fs::remove_file(&gate).unwrap();
        let asked = provider.requests("POST /token");
        let started = Started::new(machine.command(&["keys", "list"]));
        until("the issuer is asked", async || (provider.requests("POST /token") > asked).then_some(())).await;
        started
    };
    let before = tokens(&machine);
    let started = renewing().await;
    started.signal("INT");
    std::fs::write(&gate, "").unwrap();
    let ran = started.end().await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{ran:?}");
    let kept = tokens(&machine);
    assert_ne!(kept["refresh_token"], before["refresh_token"]);
    machine.run(&["whoami"]).good();
    // Pressed again, it ends at once: the issuer does not answer. Signals that wait at the same time are one.
    let started = renewing().await;
    for _ in 0..10 {
        started.signal("INT");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(started.end().await.code, Some(2));
    assert_eq!(tokens(&machine)["refresh_token"], kept["refresh_token"], "the old file is whole");
}

/// By the issuer's clock the token is twenty minutes old when it arrives, and lives for an hour from then on.
#[tokio::test]
async fn a_wrong_clock_is_warned_about_and_does_no_harm() {
    let provider = Provider::with_environment(&[("CLOCK_OFFSET", "-1200")]);
    let server = norrix(&provider);
    let machine = Machine::new();
    let ran = machine.sign_in(&["login", &format!("http://{}", server.http)], "olga/acme/owner").await;
    assert!(ran.err.contains("warning: this machine's clock is 20 minutes ahead of the issuer's"), "{ran:?}");
    ran.good();
    assert_eq!(tokens(&machine)["lifetime"], 3_600);
    let asked = provider.requests("POST /token");
    machine.run(&["whoami"]).good();
    assert_eq!(provider.requests("POST /token"), asked, "it is fresh");
}

#[tokio::test]
async fn a_refused_renewal_reports_sign_in_again() {
    let provider = Provider::start();
    let (_server, machine) = signed_in(&provider).await;
    let mut kept = tokens(&machine);
    kept["refresh_token"] = "forged".into();
    machine.keep("prod", "tokens.json", &kept.to_string());
    age(&machine, 3_590);
    let err = machine.run(&["keys", "list"]).failed(4);
    assert!(err.contains("Sign in again: keyward login"), "{err}");
    let err = machine.run(&["keys", "list"]).failed(4);
    assert!(err.contains("not signed in"), "{err}");
}

#[tokio::test]
async fn a_session_without_a_refresh_token_ends_and_an_issuer_that_is_unavailable_does_not_end_it() {
    let mut provider = Provider::start();
    let (_server, machine) = signed_in(&provider).await;
    age(&machine, 3_590);
    provider.stop();
    let before = tokens(&machine);
    machine.run(&["whoami", "--timeout", "2s"]).failed(1);
    assert_eq!(tokens(&machine), before, "it may come back");
    let mut kept = before;
    kept["refresh_token"] = Value::Null;
    machine.keep("prod", "tokens.json", &kept.to_string());
    let err = machine.run(&["whoami"]).failed(4);
    assert!(err.contains("the session has expired") && err.contains("Sign in again"), "{err}");
}

#[tokio::test]
async fn logout_revokes_at_the_issuer_and_deletes() {
    let provider = Provider::start();
    let (_server, mut machine) = signed_in(&provider).await;
    machine.run(&["orgs", "select", "acme"]).good();
    let kept = tokens(&machine);
    machine.set("KEYWARD_API_KEY", "nrx_x");
    let ran = machine.run(&["logout"]);
    assert!(ran.err.contains("Signed out") && ran.err.contains("KEYWARD_API_KEY is still set"), "{ran:?}");
    ran.good();
    machine.unset("KEYWARD_API_KEY");
    assert_eq!(provider.requests("POST /token/revocation"), 1);
    assert!(!machine.kept().join("prod/tokens.json").exists());
    machine.run(&["whoami"]).failed(4);
    machine.run(&["orgs", "current"]).failed(4);
    // The refresh token is dead, not only forgotten.
    machine.keep("prod", "tokens.json", &kept.to_string());
    age(&machine, 3_590);
    assert!(machine.run(&["whoami"]).failed(4).contains("Sign in again"));
    assert!(machine.run(&["logout"]).err.contains("not signed in"));
    // The address is kept: signing in again needs none.
    machine.sign_in(&["login"], "olga/acme/owner").await.good();
    machine.run(&["whoami"]).good();
}

#[tokio::test]
async fn logout_works_while_the_issuer_is_unavailable() {
    let mut provider = Provider::start();
    let (_server, machine) = signed_in(&provider).await;
    provider.stop();
    let ran = machine.run(&["logout", "--timeout", "2s"]);
    assert!(ran.err.contains("did not confirm"), "{ran:?}");
    ran.good();
    assert!(!machine.kept().join("prod/tokens.json").exists());
}
