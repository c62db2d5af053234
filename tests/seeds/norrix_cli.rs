//! Norrix: its own command line. A link `norrix` to the binary, with Norrix's addresses beside it.
//!
//! | statement | test |
//! |---|---|
//! | `norrix sign-in` (alias `norrix login`) opens a browser window; after the login, session tokens are stored locally | `sign_in_opens_a_browser_and_stores_the_session_locally` |
//! | `norrix sign-out` (alias `norrix logout`) clears the local session | `sign_out_clears_the_local_session` |
//! | `norrix whoami` verifies who you're logged in as | `whoami_shows_who_is_logged_in` |
//! | production is the default; `--dev` or `--env dev` | `production_is_the_default_and_dev_is_a_flag` |
//! | the environment affects API endpoints, token storage and organization selection | `the_environment_affects_endpoints_tokens_and_organization` |
//! | API keys for CI: create, name, scopes, expiry, copy once | `a_key_for_ci_is_created_and_shown_once` |
//! | `export NORRIX_API_KEY=…`, or for one command; the CLI uses it automatically | `the_cli_uses_norrix_api_key` |
//! | key format `nrx_<base64_random_bytes>` | `keys_have_the_format` |
//! | scopes build, submit, update | `keys_have_the_scopes` |
//! | revoked keys are immediately invalidated | `revoked_keys_are_invalid_at_once` |
//! | `norrix orgs list` | `orgs_list_lists_organizations` |
//! | `norrix orgs select` opens an interactive prompt for the default organization | `orgs_select_asks_for_the_default` |
//! | `norrix orgs current` | `orgs_current_shows_the_default` |
//! | `--org org_abc123` for a single command | `org_overrides_for_one_command` |
//! | tokens are in `~/.norrix/`, separately for each environment | `tokens_are_stored_separately_in_the_folder_of_norrix` |
//! | nothing but `--version` names the program beneath | `nothing_but_the_version_names_the_program` |

use serde_json::{Value, json};

use crate::support::{
    Server, Setup,
    cli::{Machine, Started, browse},
    oidc::Provider,
    server::ROOT,
};

/// Norrix's production and development, and a machine with its command line.
struct Norrix {
    provider: Provider,
    prod: Server,
    dev: Server,
    machine: Machine,
}

/// `config/cognito.toml` with the address of the test provider, and the client of the command line.
fn service(provider: &Provider) -> Server {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/cognito.toml")).unwrap();
    let pool = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_EXAMPLE";
    let config = text.replace(&format!("issuer = \"{pool}\""), &format!("issuer = \"{}\"", provider.issuer));
    assert_ne!(config, text);
    let claims = "claims = { organizations = \"cognito:groups\", role = \"custom:role\" }";
    let own = "claims = { organizations = \"norrix:orgs\", role = \"norrix:role\" }\ncli = { client_id = \"cli\" }";
    let config = config.replacen(claims, own, 1);
    Setup::new().config(&config).start()
}

impl Norrix {
    fn start() -> Self {
        let provider = Provider::start();
        let (prod, dev) = (service(&provider), service(&provider));
        let machine = Machine::named("norrix");
        let urls = format!("[env.prod]\nurl = \"http://{}\"\n\n[env.dev]\nurl = \"http://{}\"\n", prod.http, dev.http);
        std::fs::write(machine.bin().join("norrix.toml"), urls).unwrap();
        Self { provider, prod, dev, machine }
    }

    async fn sign_in(&self, flags: &[&str], login: &str) {
        let arguments = [&["sign-in"], flags].concat();
        self.machine.sign_in(&arguments, login).await.good();
    }

    fn run(&self, arguments: &[&str]) -> String {
        self.machine.run(arguments).good()
    }

    /// A key that a pipeline of `org_abc123` has: it may manage keys.
    async fn admin_key(&self) -> Value {
        self.prod.create(json!({"name": "admin", "orgId": "org_abc123", "scopes": ["build", "admin"]})).await
    }
}

#[tokio::test]
async fn sign_in_opens_a_browser_and_stores_the_session_locally() {
    let mut norrix = Norrix::start();
    let page = norrix.machine.folder().join("page");
    // The browser is a program: this one writes down where it was sent.
    let browser = norrix.machine.folder().join("browser.sh");
    std::fs::write(&browser, format!("#!/bin/sh\nprintf %s \"$1\" > {0}.new && mv {0}.new {0}\n", page.display()))
        .unwrap();
    std::fs::set_permissions(&browser, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    norrix.machine.set("BROWSER", &format!("{} %s", browser.display()));
    for command in ["sign-in", "login"] {
        let mut started = Started::new(norrix.machine.command(&[command]));
        let printed = started.address().await;
        let opened =
            crate::support::reply::until("the browser opens", async || std::fs::read_to_string(&page).ok()).await;
        assert_eq!(opened, printed, "the same address is printed");
        std::fs::remove_file(&page).unwrap();
        let (status, text) = browse(&opened, "olga/org_abc123/owner").await;
        assert!(status == 200 && text.contains("You are signed in"), "{text}");
        let ran = started.end().await;
        assert!(ran.err.contains("Signed in as olga"), "{ran:?}");
        ran.good();
        let kept = std::fs::read_to_string(norrix.machine.kept().join("prod/tokens.json")).unwrap();
        assert!(kept.contains("id_token") && kept.contains("refresh_token"));
        norrix.run(&["sign-out"]);
    }
}

#[tokio::test]
async fn sign_out_clears_the_local_session() {
    let norrix = Norrix::start();
    for command in ["sign-out", "logout"] {
        norrix.sign_in(&[], "olga/org_abc123/owner").await;
        norrix.run(&["whoami"]);
        norrix.run(&[command]);
        assert!(!norrix.machine.kept().join("prod/tokens.json").exists());
        assert!(norrix.machine.run(&["whoami"]).failed(4).contains("norrix login"));
    }
}

#[tokio::test]
async fn whoami_shows_who_is_logged_in() {
    let norrix = Norrix::start();
    norrix.sign_in(&[], "olga/org_abc123/owner").await;
    let shown = norrix.run(&["whoami"]);
    for part in ["olga", "org_abc123 (owner)", "session", "prod"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[tokio::test]
async fn production_is_the_default_and_dev_is_a_flag() {
    let mut norrix = Norrix::start();
    let (prod, dev) = (norrix.prod.http.clone(), norrix.dev.http.clone());
    norrix.machine.set("NORRIX_API_KEY", ROOT);
    assert!(norrix.run(&["whoami"]).contains(&prod));
    assert!(norrix.run(&["whoami", "--dev"]).contains(&dev));
    assert!(norrix.run(&["whoami", "--env", "dev"]).contains(&dev));
    norrix.machine.set("NORRIX_ENV", "dev");
    assert!(norrix.run(&["whoami"]).contains(&dev));
    norrix.machine.unset("NORRIX_ENV").set("NORRIX_URL", &format!("http://{dev}"));
    assert!(norrix.run(&["whoami"]).contains(&dev));
}

#[tokio::test]
async fn the_environment_affects_endpoints_tokens_and_organization() {
    let norrix = Norrix::start();
    norrix.sign_in(&[], "olga/org_abc123+org_def456/owner").await;
    assert!(norrix.machine.run(&["whoami", "--dev"]).failed(4).contains("environment dev"), "its tokens are apart");
    norrix.sign_in(&["--dev"], "otto/org_abc123+org_def456/owner").await;
    norrix.run(&["orgs", "select", "org_abc123"]);
    norrix.run(&["orgs", "select", "org_def456", "--dev"]);
    assert_eq!(
        (norrix.run(&["orgs", "current"]).as_str(), norrix.run(&["orgs", "current", "--dev"]).as_str()),
        ("org_abc123\n", "org_def456\n")
    );
    norrix.run(&["keys", "create", "in dev", "--dev", "-q"]);
    assert_eq!(norrix.run(&["keys", "list", "-o", "id"]), "", "its endpoint is another one");
    assert!(norrix.run(&["whoami"]).contains("olga") && norrix.run(&["whoami", "--dev"]).contains("otto"));
}

#[tokio::test]
async fn a_key_for_ci_is_created_and_shown_once() {
    let norrix = Norrix::start();
    norrix.sign_in(&[], "olga/org_abc123/owner").await;
    let ran = norrix.machine.run(&[
        "keys",
        "create",
        "GitHub Actions",
        "--scope",
        "build",
        "--scope",
        "submit",
        "--expires",
        "90d",
    ]);
    assert!(ran.err.contains("shown this once"), "{ran:?}");
    let secret = ran.good();
    let secret = secret.trim();
    let listed = norrix.run(&["keys", "list", "-o", "json"]);
    assert!(!listed.contains(secret) && listed.contains(&secret[..12]), "{listed}");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["scopes"]), (&json!("GitHub Actions"), &json!(["build", "submit"])));
    assert!(listed[0]["expiresAt"].is_string() && listed[0]["createdBy"].as_str().unwrap().starts_with("user:olga"));
}

#[tokio::test]
async fn the_cli_uses_norrix_api_key() {
    let mut norrix = Norrix::start();
    norrix.sign_in(&[], "olga/org_abc123/owner").await;
    let key = norrix.admin_key().await;
    norrix.machine.set("NORRIX_API_KEY", key["key"].as_str().unwrap());
    let shown = norrix.run(&["whoami"]);
    assert!(shown.contains("admin") && shown.contains("the key in NORRIX_API_KEY"), "before the session: {shown}");
    assert!(norrix.run(&["keys", "list"]).contains("admin"));
    // For one command, before any session, without any file, and without a terminal.
    let pipeline = Machine::named("norrix").pipeline(&norrix.prod, key["key"].as_str().unwrap());
    assert_eq!(pipeline.run(&["whoami", "-o", "json"]).json()["keyId"], key["id"]);
    assert!(!pipeline.kept().exists());
    // Another product's variable is not read.
    norrix.machine.unset("NORRIX_API_KEY").set("KEYWARD_API_KEY", key["key"].as_str().unwrap());
    assert!(norrix.run(&["whoami"]).contains("a session"));
}

#[tokio::test]
async fn keys_have_the_format() {
    let norrix = Norrix::start();
    norrix.sign_in(&[], "olga/org_abc123/owner").await;
    let secret = norrix.run(&["keys", "create", "ci", "-q"]);
    let body = secret.trim().strip_prefix("nrx_").unwrap();
    assert!(body.len() == 48 && data_encoding::BASE64URL_NOPAD.decode(body.as_bytes()).is_ok(), "{secret}");
}

#[tokio::test]
async fn keys_have_the_scopes() {
    let norrix = Norrix::start();
    norrix.sign_in(&[], "olga/org_abc123/owner").await;
    let made = |scopes: &[&str]| {
        let scopes = scopes.iter().flat_map(|scope| ["--scope", scope]);
        let arguments: Vec<&str> = ["keys", "create", "ci", "-o", "json"].into_iter().chain(scopes).collect();
        norrix.machine.run(&arguments)
    };
    for scope in ["build", "submit", "update"] {
        assert_eq!(made(&[scope]).json()["scopes"], json!([scope]));
    }
    assert_eq!(
        made(&[]).json()["scopes"],
        json!(["build", "submit", "update"]),
        "new keys include all scopes by default"
    );
    made(&["fly"]).failed(1);
}

#[tokio::test]
async fn revoked_keys_are_invalid_at_once() {
    let norrix = Norrix::start();
    norrix.sign_in(&[], "olga/org_abc123/owner").await;
    let made = norrix.machine.run(&["keys", "create", "ci", "-o", "json"]).json();
    let verify = async || {
        let (_, verdict) = norrix.prod.call("POST", "/api/v1/verify", Some(ROOT), json!({"secret": made["key"]})).await;
        verdict["code"].clone()
    };
    assert_eq!(verify().await, "VALID");
    norrix.run(&["keys", "revoke", made["id"].as_str().unwrap(), "--yes"]);
    assert_eq!(verify().await, "REVOKED");
    assert!(norrix.run(&["keys", "list"]).contains("revoked"), "it stays in the list");
}

#[tokio::test]
async fn orgs_list_lists_organizations() {
    let norrix = Norrix::start();
    norrix.sign_in(&[], "olga/org_abc123+org_def456/owner").await;
    assert_eq!(norrix.run(&["orgs", "list", "-o", "id"]), "org_abc123\norg_def456\n");
    assert!(norrix.run(&["orgs", "list"]).contains("owner"));
}

#[tokio::test]
async fn orgs_select_asks_for_the_default() {
    let norrix = Norrix::start();
    norrix.sign_in(&[], "olga/org_abc123+org_def456/owner").await;
    let mut terminal = norrix.machine.in_terminal(&["orgs", "select"]);
    terminal.wait_for("org_def456");
    terminal.type_in("\x1b[B");
    terminal.type_in("\r");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(norrix.run(&["orgs", "current"]), "org_def456\n");
    let made = norrix.machine.run(&["keys", "create", "ci", "-o", "json"]).json();
    assert_eq!(made["orgId"], "org_def456");
}

#[tokio::test]
async fn orgs_current_shows_the_default() {
    let norrix = Norrix::start();
    norrix.sign_in(&[], "olga/org_abc123+org_def456/owner").await;
    assert!(norrix.machine.run(&["orgs", "current"]).failed(1).contains("norrix orgs select"));
    norrix.run(&["orgs", "select", "org_abc123"]);
    assert_eq!(norrix.run(&["orgs", "current"]), "org_abc123\n");
}

#[tokio::test]
async fn org_overrides_for_one_command() {
    let norrix = Norrix::start();
    norrix.sign_in(&[], "olga/org_abc123+org_def456/owner").await;
    norrix.run(&["orgs", "select", "org_def456"]);
    let made = norrix.machine.run(&["keys", "create", "ci", "--org", "org_abc123", "-o", "json"]).json();
    assert_eq!(made["orgId"], "org_abc123");
    assert_eq!(norrix.run(&["orgs", "current"]), "org_def456\n");
    assert!(norrix.machine.run(&["keys", "list", "--org", "org_xyz"]).failed(1).contains("not this caller's own"));
}

#[tokio::test]
async fn tokens_are_stored_separately_in_the_folder_of_norrix() {
    let norrix = Norrix::start();
    norrix.sign_in(&[], "olga/org_abc123/owner").await;
    norrix.sign_in(&["--dev"], "otto/org_abc123/owner").await;
    let kept = norrix.machine.kept();
    assert!(kept.ends_with("home/.norrix"), "{kept:?}");
    let token = |environment: &str| std::fs::read_to_string(kept.join(environment).join("tokens.json")).unwrap();
    assert_ne!(token("prod"), token("dev"));
    assert!(!kept.parent().unwrap().join(".keyward").exists());
}

#[tokio::test]
async fn nothing_but_the_version_names_the_program() {
    let norrix = Norrix::start();
    let mut shown = Vec::new();
    for arguments in [
        &["--help"][..],
        &["help", "keys", "create"],
        &["login", "--help"],
        &["keys", "--help"],
        &["events", "list", "--help"],
        &["serve"],
        &["whoami"],
        &["keys", "list", "--env", "elsewhere"],
        &["login", "http://127.0.0.1:9"],
        &["login", &norrix.provider.issuer],
        &["nothing"],
        &["completions", "bash"],
    ] {
        let ran = norrix.machine.run(arguments);
        shown.push(format!("{arguments:?}: {}{}", ran.out, ran.err));
    }
    let folder = norrix.machine.folder().join("man");
    norrix.run(&["man", folder.to_str().unwrap()]);
    for page in std::fs::read_dir(&folder).unwrap() {
        let page = page.unwrap().path();
        assert!(page.file_name().unwrap().to_str().unwrap().starts_with("norrix"), "{page:?}");
        shown.push(std::fs::read_to_string(page).unwrap());
    }
    for text in shown {
        assert!(!text.to_lowercase().contains("keyward"), "{text}");
    }
    // The server is the operator's program.
    for command in ["serve", "migrate", "config", "root-key"] {
        assert!(norrix.machine.run(&[command]).failed(2).contains("unrecognized subcommand"), "{command}");
    }
    assert!(norrix.run(&["--version"]).contains("keyward"));
}
