//! Environments and the order of precedence: flag, environment variable, the environment's file, default.

use serde_json::{Value, json};

use crate::support::{Server, Setup, cli::Machine, oidc::Provider, server::ROOT};

fn norrix(provider: &Provider) -> Server {
    let cli = "cli = { client_id = \"cli\" }";
    Setup::new().ready("norrix").and(&provider.table("dashboard", &["norrix"], cli)).start()
}

async fn owner(provider: &Provider, organizations: &Value) -> String {
    provider.token("cli", "olga", organizations).await
}

#[tokio::test]
async fn the_address_comes_from_the_flag_then_the_variable_then_the_file() {
    let server = Setup::new().ready("norrix").start();
    let url = format!("http://{}", server.http);
    let mut machine = Machine::new();
    machine.set("KEYWARD_API_KEY", ROOT);
    let refused = machine.run(&["whoami"]).failed(4);
    assert!(refused.contains("KEYWARD_URL"), "{refused}");
    let dead = "http://127.0.0.1:9";
    machine.keep("prod", "settings.json", &json!({"url": url}).to_string());
    machine.run(&["whoami"]).good();
    machine.set("KEYWARD_URL", dead);
    machine.run(&["whoami"]).failed(1);
    machine.run(&["whoami", "--url", &url]).good();
    machine.run(&["--url", &url, "whoami"]).good();
    machine.keep("prod", "settings.json", &json!({"url": dead}).to_string());
    machine.set("KEYWARD_URL", &url);
    machine.run(&["whoami"]).good();
    machine.run(&["whoami", "--url", dead]).failed(1);
    for bad in ["ftp://x", "http://", "http://a:b@c", "http://x?y"] {
        assert!(machine.run(&["whoami", "--url", bad]).failed(2).contains("is no address"), "{bad}");
    }
}

#[tokio::test]
async fn the_environment_comes_from_the_flag_then_the_variable() {
    let server = Setup::new().ready("norrix").start();
    let mut machine = Machine::new();
    machine.set("KEYWARD_API_KEY", ROOT);
    machine.keep("staging", "settings.json", &json!({"url": format!("http://{}", server.http)}).to_string());
    let shown = |machine: &Machine, arguments: &[&str]| machine.run(arguments).good();
    assert!(shown(&machine, &["whoami", "--env", "staging"]).contains("staging"));
    machine.set("KEYWARD_ENV", "staging");
    assert!(shown(&machine, &["whoami"]).contains("staging"));
    let prod = machine.run(&["whoami", "--env", "prod"]).failed(4);
    assert!(prod.contains("environment prod"), "{prod}");
    let production = machine.run(&["whoami", "--env", "production"]).failed(4);
    assert!(production.contains("environment prod"), "{production}");
    let dev = machine.run(&["whoami", "--dev"]).failed(4);
    assert!(dev.contains("environment dev"), "{dev}");
    machine.run(&["whoami", "--dev", "--env", "x"]).failed(2);
    for bad in ["../x", ".", "", "a/b", "a b"] {
        assert!(
            machine.run(&["whoami", &format!("--env={bad}")]).failed(2).contains("no name of an environment"),
            "{bad}"
        );
    }
}

#[tokio::test]
async fn a_key_goes_before_a_session() {
    let provider = Provider::start();
    let server = norrix(&provider);
    let mut machine = Machine::new();
    let token = owner(&provider, &json!({"acme": "owner"})).await;
    machine.signed_in("prod", &server, &provider, &token);
    assert_eq!(machine.run(&["whoami", "-o", "json"]).json()["caller"], "session");
    let key = server.create(json!({"name": "ci", "orgId": "acme", "scopes": ["admin"]})).await;
    machine.set("KEYWARD_API_KEY", key["key"].as_str().unwrap());
    assert_eq!(machine.run(&["whoami", "-o", "json"]).json()["keyId"], key["id"]);
    // A secret that a pipeline does not have is passed as the empty string.
    machine.set("KEYWARD_API_KEY", "");
    assert_eq!(machine.run(&["whoami", "-o", "json"]).json()["caller"], "session");
}

#[tokio::test]
async fn the_organization_comes_from_the_flag_then_the_variable_then_the_choice() {
    let provider = Provider::start();
    let server = norrix(&provider);
    let mut machine = Machine::new();
    let token = owner(&provider, &json!({"acme": "owner", "globex": "admin", "initech": "member"})).await;
    machine.signed_in("prod", &server, &provider, &token);
    let made_in = |machine: &Machine, more: &[&str]| {
        let arguments = [&["keys", "create", "n", "-o", "json"], more].concat();
        machine.run(&arguments).json()["orgId"].as_str().unwrap().to_owned()
    };
    let unnamed = machine.run(&["keys", "create", "n"]).failed(1);
    assert!(unnamed.contains("orgId") && unnamed.contains("keyward orgs select"), "{unnamed}");
    machine.run(&["orgs", "current"]).failed(1);
    let listed = machine.run(&["orgs", "list"]).good();
    for shown in ["acme", "owner", "globex", "admin", "initech", "member"] {
        assert!(listed.contains(shown), "{listed}");
    }
    assert!(machine.run(&["orgs", "select", "globex"]).err.contains("Organization: globex"));
    assert_eq!(machine.run(&["orgs", "current"]).good(), "globex\n");
    assert!(machine.run(&["orgs", "list"]).good().lines().any(|line| line.starts_with("*  globex")));
    assert_eq!(made_in(&machine, &[]), "globex");
    machine.set("KEYWARD_ORG", "acme");
    assert_eq!((made_in(&machine, &[]), machine.run(&["orgs", "current"]).good()), ("acme".into(), "acme\n".into()));
    assert_eq!(made_in(&machine, &["--org", "globex"]), "globex");
    machine.unset("KEYWARD_ORG");
    let unknown = machine.run(&["orgs", "select", "nowhere"]).failed(1);
    assert!(unknown.contains("you are not in nowhere") && unknown.contains("acme, globex, initech"), "{unknown}");
    // Nobody can be asked here.
    machine.run(&["orgs", "select"]).failed(2);
    // The refusal is the service's.
    let member = machine.run(&["keys", "list", "--org", "initech"]).failed(1);
    assert!(member.contains("Members cannot manage API keys"), "{member}");
    let foreign = machine.run(&["keys", "list", "--org", "umbrella"]).failed(1);
    assert!(foreign.contains("The organization is not this caller's own"), "{foreign}");
}

#[tokio::test]
async fn environments_have_addresses_tokens_and_organizations_of_their_own() {
    let provider = Provider::start();
    let (prod, dev) = (norrix(&provider), norrix(&provider));
    let machine = Machine::new();
    let both = json!({"acme": "owner", "globex": "owner"});
    machine.signed_in("prod", &prod, &provider, &provider.token("cli", "olga", &both).await);
    machine.signed_in("dev", &dev, &provider, &provider.token("cli", "otto", &both).await);
    machine.run(&["orgs", "select", "acme"]).good();
    machine.run(&["orgs", "select", "globex", "--dev"]).good();
    assert_eq!(machine.run(&["orgs", "current"]).good(), "acme\n");
    assert_eq!(machine.run(&["orgs", "current", "--env", "dev"]).good(), "globex\n");
    assert_eq!(machine.run(&["whoami", "-o", "json"]).json()["subject"], "olga");
    assert_eq!(machine.run(&["whoami", "--dev", "-o", "json"]).json()["subject"], "otto");
    machine.run(&["keys", "create", "in dev", "--dev", "-q"]).good();
    assert_eq!(machine.run(&["keys", "list", "-o", "id"]).good(), "");
    assert_eq!(machine.run(&["keys", "list", "--dev", "-o", "id"]).good().lines().count(), 1);
    machine.run(&["logout", "--dev"]).good();
    machine.run(&["whoami", "--dev"]).failed(4);
    machine.run(&["whoami"]).good();
}

/// Otherwise a variable that somebody else can set would get the session sent to their server.
#[tokio::test]
async fn a_session_is_shown_to_no_other_service() {
    let provider = Provider::start();
    let (server, other) = (norrix(&provider), norrix(&provider));
    let mut machine = Machine::new();
    machine.signed_in("prod", &server, &provider, &owner(&provider, &json!({"acme": "owner"})).await);
    machine.set("KEYWARD_URL", &format!("http://{}", other.http));
    let refused = machine.run(&["whoami"]).failed(4);
    assert!(refused.contains("signed in at") && refused.contains(&server.http), "{refused}");
}
