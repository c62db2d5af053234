//! Signing in: the authorization code flow, the device flow, and who may interfere.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    Server, Setup,
    cli::{Machine, Started, browse},
    oidc::{Provider, client},
};

fn norrix(provider: &Provider) -> Server {
    let cli = "cli = { client_id = \"cli\", scopes = [\"openid\"] }";
    Setup::new().ready("norrix").and(&provider.table("dashboard", &["norrix"], cli)).start()
}

fn url(server: &Server) -> String {
    format!("http://{}", server.http)
}

/// The command that a real Chromium signs in with, instead of a person.
fn chromium(login: &str) -> String {
    let folder = std::env::var("KEYWARD_TEST_BROWSER").expect("KEYWARD_TEST_BROWSER: tests/run sets it");
    format!("node {folder}/sign-in.mjs {login}")
}

#[tokio::test]
async fn a_real_browser_signs_in_once() {
    let provider = Provider::start();
    let server = norrix(&provider);
    let mut machine = Machine::new();
    machine.set("BROWSER", &format!("{} %s", chromium("olga/acme+globex/owner")));
    let ran = Started::new(machine.command(&["login", &url(&server)])).end().await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.err.contains("Signed in as olga") && ran.err.contains(&provider.issuer),
        "the address is always shown: {ran:?}"
    );
    assert!(ran.err.contains("2 organizations") && ran.err.contains("keyward orgs select"), "{ran:?}");
    let identity = machine.run(&["whoami", "-o", "json"]).json();
    assert_eq!((&identity["caller"], identity["organizations"].as_array().unwrap().len()), (&"session".into(), 2));
    machine.run(&["orgs", "select", "globex"]).good();
    let secret = machine.run(&["keys", "create", "ci", "--scope", "build"]).good();
    assert!(secret.starts_with("nrx_"), "{secret}");
    let listed = machine.run(&["keys", "list"]).good();
    assert!(listed.contains("ci") && listed.contains("user:olga"), "{listed}");
}

#[tokio::test]
async fn the_device_flow_signs_in_where_there_is_no_browser() {
    let provider = Provider::start();
    let server = norrix(&provider);
    let machine = Machine::new();
    // Nothing says that there is a browser: no flag is needed.
    let mut started = Started::new(machine.command(&["login", &url(&server)]));
    let complete = started.line(&format!("{}/device?user_code=", provider.issuer)).await;
    let mut words = chromium("olga/acme/owner");
    words.push(' ');
    words.push_str(&complete);
    let words: Vec<&str> = words.split(' ').collect();
    let browser = std::process::Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(String::from_utf8_lossy(&browser.stdout).contains("Sign-in Success"), "{browser:?}");
    let ran = started.end().await;
    assert!(ran.err.contains("Signed in as olga") && ran.err.contains("Organization: acme"), "{ran:?}");
    ran.good();
    machine.run(&["whoami"]).good();
}

#[tokio::test]
async fn a_denied_device_code_and_an_issuer_without_the_flow_are_said() {
    let provider = Provider::with_environment(&[("DEVICE_FLOW", "off")]);
    let server = norrix(&provider);
    let err = Machine::new().run(&["login", &url(&server), "--device"]).failed(1);
    assert!(err.contains("no device flow") && err.contains("--no-browser"), "{err}");
    // Without the flow, the address is printed and waited for.
    let machine = Machine::new();
    let mut started = Started::new(machine.command(&["login", &url(&server)]));
    let (status, page) = browse(&started.address().await, "olga/acme/owner").await;
    assert_eq!(status, 200, "{page}");
    started.end().await.good();
}

#[tokio::test]
async fn the_request_has_what_protects_it_and_the_page_says_done_only_then() {
    let provider = Provider::start();
    let server = norrix(&provider);
    let machine = Machine::new();
    let mut started = Started::new(machine.command(&["login", &url(&server), "--no-browser"]));
    let address = url::Url::parse(&started.address().await).unwrap();
    let query: std::collections::HashMap<_, _> = address.query_pairs().into_owned().collect();
    assert_eq!((query["response_type"].as_str(), query["code_challenge_method"].as_str()), ("code", "S256"));
    assert_eq!(query["code_challenge"].len(), 43);
    assert!(query["state"].len() >= 43 && query["nonce"].len() >= 43 && query["state"] != query["nonce"]);
    let redirect = query["redirect_uri"].clone();
    assert!(redirect.starts_with("http://127.0.0.1:") && redirect.ends_with("/callback"), "{redirect}");

    // A stranger's page sends the browser here: the sign-in goes on.
    let get = async |url: String| {
        let response = client().get(url).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let state = &query["state"];
    for (path, status) in [
        ("?code=x&state=wrong".to_owned(), 400),
        ("?code=x".to_owned(), 400),
        (format!("?code=x&state={state}&state={state}"), 400),
        (format!("/more?code=x&state={state}"), 404),
    ] {
        let (answered, page) = get(format!("{redirect}{path}")).await;
        assert!(answered == status && !page.contains("signed in"), "{path}: {page}");
    }
    assert_eq!(get(redirect.replace("/callback", "/")).await.0, 404);
    assert_eq!(client().post(format!("{redirect}?state={state}")).send().await.unwrap().status().as_u16(), 404);

    let (status, page) = browse(address.as_str(), "olga/acme/owner").await;
    assert!(status == 200 && page.contains("You are signed in") && !page.to_lowercase().contains("keyward"), "{page}");
    started.end().await.good();
    // Once: nobody listens any more.
    assert!(client().get(&redirect).send().await.is_err());
}

#[tokio::test]
async fn an_answer_of_another_issuer_or_a_refusal_ends_it() {
    let provider = Provider::start();
    let server = norrix(&provider);
    for (answer, said) in [
        ("code=x&iss=https://evil.example".to_owned(), "another issuer"),
        ("code=x".to_owned(), "another issuer"),
        (format!("error=access_denied&error_description=No%1b[2J&iss={}", provider.issuer), "No\\u{1b}[2J"),
        (format!("code=forged&iss={}", provider.issuer), "refused the code"),
    ] {
        let machine = Machine::new();
        let mut started = Started::new(machine.command(&["login", &url(&server), "--no-browser"]));
        let address = url::Url::parse(&started.address().await).unwrap();
        let query: std::collections::HashMap<_, _> = address.query_pairs().into_owned().collect();
        let callback = format!("{}?state={}&{answer}", query["redirect_uri"], query["state"]);
        let page = client().get(callback).send().await.unwrap();
        assert_eq!(page.status().as_u16(), 400);
        let ran = started.end().await;
        assert!(ran.err.contains(said), "{answer}: {ran:?}");
        assert_eq!(ran.code, Some(1));
        assert!(!machine.kept().join("prod").join("tokens.json").exists());
    }
}

#[tokio::test]
async fn nobody_signs_in_in_time() {
    let provider = Provider::start();
    let server = norrix(&provider);
    let machine = Machine::new();
    let err = machine.run(&["login", &url(&server), "--no-browser", "--timeout", "1s"]).failed(1);
    assert!(err.contains("nobody signed in in time") && err.contains("--device"), "{err}");
}

#[tokio::test]
async fn configured_ports_are_used_in_turn() {
    let provider = Provider::start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let [first, second] = [&taken, &free].map(|listener| listener.local_addr().unwrap().port());
    drop(free);
    let cli = format!("cli = {{ client_id = \"cli\", ports = [{first}, {second}] }}");
    let server = Setup::new().ready("norrix").and(&provider.table("dashboard", &["norrix"], &cli)).start();
    let machine = Machine::new();
    let mut started = Started::new(machine.command(&["login", &url(&server), "--no-browser"]));
    let address = started.address().await;
    assert!(address.contains(&format!("127.0.0.1%3A{second}%2Fcallback")), "{address}");
    started.signal("KILL");
    let _ = started.end().await;
    let cli = format!("cli = {{ client_id = \"cli\", ports = [{first}] }}");
    let server = Setup::new().ready("norrix").and(&provider.table("dashboard", &["norrix"], &cli)).start();
    let err = machine.run(&["login", &url(&server), "--no-browser"]).failed(1);
    assert!(err.contains("no port of 127.0.0.1"), "{err}");
}

#[tokio::test]
async fn two_sign_ins_at_once_both_succeed_and_one_is_kept() {
    let provider = Provider::start();
    let server = norrix(&provider);
    let machine = Machine::new();
    let login = url(&server);
    let arguments = ["login", login.as_str(), "--no-browser"];
    let (mut first, mut second) =
        (Started::new(machine.command(&arguments)), Started::new(machine.command(&arguments)));
    let (at_first, at_second) = (first.address().await, second.address().await);
    tokio::join!(browse(&at_first, "olga/acme/owner"), browse(&at_second, "otto/acme/owner"));
    for ran in [first.end().await, second.end().await] {
        ran.good();
    }
    let subject = machine.run(&["whoami", "-o", "json"]).json()["subject"].as_str().unwrap().to_owned();
    assert!(subject.starts_with("olga") || subject.starts_with("otto"), "{subject}");
    let left: Vec<_> =
        std::fs::read_dir(machine.kept().join("prod")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_str().unwrap().contains(".tmp")), "{left:?}");
}

#[tokio::test]
async fn an_address_that_is_no_service_is_refused() {
    let provider = Provider::start();
    let machine = Machine::new();
    let err = machine.run(&["login", &provider.issuer]).failed(1);
    assert!(err.contains("is no Keyward service"), "{err}");
    let err = machine.run(&["login", "http://127.0.0.1:9"]).failed(1);
    assert_eq!(err, "keyward: 127.0.0.1:9: nobody listens there\n");
    let err = machine.run(&["login", "http://nobody.invalid"]).failed(1);
    assert!(err.contains("nobody.invalid: there is no such host"), "{err}");
    machine.run(&["login"]).failed(2);
    // A service whose people do not sign in from here.
    let server = Setup::new().ready("norrix").start();
    let err = machine.run(&["login", &url(&server)]).failed(1);
    assert!(err.contains("offers no sign-in") && err.contains("KEYWARD_API_KEY"), "{err}");
    // A service without TLS where TLS is asked for.
    let err = machine.run(&["login", &format!("https://{}", server.http)]).failed(1);
    assert!(err.contains(&format!("{}: it does not speak TLS", server.http)), "{err}");
    assert!(!machine.kept().exists(), "nothing is kept");
}

/// An issuer that the service names, and that is another one.
#[tokio::test]
async fn an_issuer_that_says_that_it_is_another_one_is_refused() {
    let provider = Provider::start();
    let other = provider.issuer.replace("127.0.0.1", "localhost");
    let table =
        provider.table("dashboard", &["norrix"], "cli = { client_id = \"cli\" }").replace(&provider.issuer, &other);
    let server = Setup::new().ready("norrix").and(&table).start();
    let err = Machine::new().run(&["login", &url(&server), "--no-browser"]).failed(1);
    assert!(err.contains("is not the issuer that the service names"), "{err}");
}

#[tokio::test]
async fn ctrl_c_ends_a_sign_in() {
    let provider = Provider::start();
    let server = norrix(&provider);
    let machine = Machine::new();
    let mut started = Started::new(machine.command(&["login", &url(&server), "--no-browser"]));
    started.address().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    started.signal("INT");
    let ran = started.end().await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(!machine.kept().join("prod").join("tokens.json").exists());
}

#[tokio::test]
async fn the_aliases_are_sign_in_and_sign_out() {
    let provider = Provider::start();
    let server = norrix(&provider);
    let machine = Machine::new();
    machine.sign_in(&["sign-in", &url(&server)], "olga/acme/owner").await.good();
    assert_eq!(machine.run(&["whoami", "-o", "json"]).json()["caller"], Value::from("session"));
    machine.run(&["sign-out"]).good();
    machine.run(&["whoami"]).failed(4);
}
