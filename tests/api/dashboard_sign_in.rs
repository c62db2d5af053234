//! Signing in to the dashboard with a key, sessions, and signing out.

use serde_json::{Value, json};

use crate::support::{
    Server, Setup,
    dashboard::{Browser, KEYS, POLICY},
    server::ROOT,
};

fn start() -> Server {
    Setup::new().ready("all").start()
}

async fn key(server: &Server, body: Value) -> (String, String) {
    let made = server.create(body).await;
    (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
}

async fn admin_key(server: &Server) -> (String, String) {
    key(server, json!({"name": "admin", "keyspace": "norrix", "orgId": "acme", "scopes": ["admin"]})).await
}

#[tokio::test]
async fn the_root_credential_and_an_admin_key_sign_in() {
    let server = start();
    let (_, admin) = admin_key(&server).await;
    for (credential, role) in [(ROOT, "Operator"), (&admin, "Admin key of acme")] {
        let mut browser = Browser::with(&server, credential).await;
        browser.get(KEYS).await.is(200).has(role).has("API Keys");
        assert!(!browser.get(KEYS).await.html.contains(credential));
    }
}

/// The attack: a key that may do little is turned into a session that may do more.
#[tokio::test]
async fn a_key_that_may_not_manage_keys_does_not_sign_in() {
    let server = start();
    let (_, build) =
        key(&server, json!({"name": "n", "keyspace": "norrix", "orgId": "acme", "scopes": ["build"]})).await;
    let (_, service) = key(&server, json!({"name": "n", "keyspace": "keyward", "scopes": ["verify"]})).await;
    for credential in [build, service] {
        let mut browser = Browser::new(&server);
        browser.sign_in(&credential).await.is(403).has("may not manage keys");
        assert!(!browser.cookies.contains_key("keyward_session"));
    }
}

#[tokio::test]
async fn without_a_session_every_page_leads_to_the_sign_in_and_back() {
    let server = start();
    for path in [
        "/dashboard/overview",
        "/dashboard/activity?type=key.created",
        "/dashboard/settings/api-keys",
        "/dashboard/settings/api-keys/new",
        "/dashboard/settings/sessions",
        "/dashboard/activity.csv",
    ] {
        let mut browser = Browser::new(&server);
        let to = browser.get(path).await.location().to_owned();
        let form = browser.get(&to).await.is(200);
        assert_eq!(form.value("return_to"), path);
        let fields =
            [("token", form.value("token")), ("return_to", form.value("return_to")), ("credential", ROOT.to_owned())];
        let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
        assert_eq!(browser.post("/dashboard/sign-in", &fields).await.location(), path);
        browser.get(path).await.is(200);
    }
    let mut browser = Browser::new(&server);
    assert_eq!(browser.get("/").await.location(), KEYS);
    assert_eq!(browser.get("/dashboard").await.location(), KEYS);
    browser.get("/dashboard/nowhere").await.is(404).has("There is no such page");
    browser.post("/dashboard/sign-out", &[]).await.is(403).has("Your session has ended");
}

#[tokio::test]
async fn a_sign_in_returns_to_no_other_site() {
    let server = start();
    for target in
        ["https://evil.example/", "//evil.example", "/\\evil.example", "/dashboard/../..//evil.example", "/api/events"]
    {
        let mut browser = Browser::new(&server);
        let query = url::form_urlencoded::byte_serialize(target.as_bytes()).collect::<String>();
        let form = browser.get(&format!("/dashboard/sign-in?return_to={query}")).await.is(200);
        assert_eq!(form.value("return_to"), "/dashboard", "{target}");
        let token = form.value("token");
        let page =
            browser.post("/dashboard/sign-in", &[("token", &token), ("return_to", target), ("credential", ROOT)]).await;
        assert_eq!(page.location(), "/dashboard", "{target}");
    }
}

#[tokio::test]
async fn a_revoked_keys_session_is_over_with_the_next_request() {
    let server = start();
    let (id, admin) = admin_key(&server).await;
    let mut browser = Browser::with(&server, &admin).await;
    browser.get(KEYS).await.is(200);
    let token = browser.token().await;
    let (status, _) = server.call("DELETE", &format!("/api/api-keys/{id}"), Some(ROOT), Value::Null).await;
    assert_eq!(status, 200);
    let mut other = browser.clone();
    other.post(KEYS, &[("token", &token), ("name", "n"), ("keyspace", "norrix")]).await.is(403);
    assert!(browser.get(KEYS).await.location().starts_with("/dashboard/sign-in?"));
    let listed = server.call("GET", "/api/api-keys?keyspace=norrix", Some(ROOT), Value::Null).await.1;
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1, "nothing was made");
}

#[tokio::test]
async fn a_sign_in_gives_a_new_session_and_a_sign_out_ends_it() {
    let server = start();
    let mut browser = Browser::operator(&server).await;
    let first = browser.cookies["keyward_session"].clone();
    browser.sign_in(ROOT).await.is(303);
    assert_ne!(browser.cookies["keyward_session"], first, "the id is new at each sign-in");
    let ended = browser.clone();
    let out = browser.act("/dashboard/sign-out", &[]).await;
    assert_eq!(out.location(), "/dashboard/sign-in?signed_out=1");
    assert!(!browser.cookies.contains_key("keyward_session"));
    // Who kept the cookie has nothing: the row is gone.
    assert!(ended.clone().get(KEYS).await.location().starts_with("/dashboard/sign-in"));
}

#[tokio::test]
async fn a_person_sees_and_ends_their_other_sessions_and_nobody_elses() {
    let server = start();
    let (_, admin) = admin_key(&server).await;
    let (mut one, mut two) = (Browser::operator(&server).await, Browser::operator(&server).await);
    let mut foreign = Browser::with(&server, &admin).await;
    let page = one.get("/dashboard/settings/sessions").await.is(200).has("this one");
    let other = page.value("session");
    // Another's session cannot be ended, though its id is known.
    foreign.act("/dashboard/settings/sessions", &[("session", &other)]).await.is(303);
    two.get(KEYS).await.is(200);
    one.act("/dashboard/settings/sessions", &[("session", &other)]).await.is(303);
    two.get(KEYS).await.is(303);
    one.get(KEYS).await.is(200);
    one.act("/dashboard/settings/sessions", &[("session", "nonsense")]).await.is(400);
}

#[tokio::test]
async fn a_cookie_that_this_installation_did_not_issue_is_no_session() {
    let (server, other) = (start(), start());
    let theirs = Browser::operator(&other).await.cookies["keyward_session"].clone();
    let ours = Browser::operator(&server).await.cookies["keyward_session"].clone();
    let changed = format!("{}{}", if ours.starts_with('A') { 'B' } else { 'A' }, &ours[1..]);
    for forged in [theirs.as_str(), &changed, "x", "", &"A".repeat(4_000), ROOT] {
        let mut browser = Browser::new(&server);
        browser.cookies.insert("keyward_session".to_owned(), forged.to_owned());
        browser.get(KEYS).await.is(303);
    }
    // A neighbouring host may set a cookie of the same name: with two, none counts.
    let browser = Browser::new(&server);
    let two = browser
        .request(reqwest::Method::GET, KEYS)
        .header("cookie", format!("keyward_session={ours}; keyward_session={theirs}"));
    assert_eq!(two.send().await.unwrap().status(), 303);
}

#[tokio::test]
async fn failed_sign_ins_are_limited_and_a_valid_key_still_signs_in() {
    let server = Setup::new().config("[server]\nfailed_authentications = { limit = 3, window = \"60s\" }").start();
    let mut browser = Browser::new(&server);
    for _ in 0..3 {
        browser.sign_in("ak_wrong").await.is(401).has("not valid");
    }
    let page = browser.sign_in("ak_wrong").await.is(429).has("Too many tries");
    assert!(page.header("retry-after").parse::<u64>().unwrap() >= 1);
    // The credential is always verified first.
    browser.sign_in(ROOT).await.is(303);
    let log = server.log();
    assert!(!log.contains("ak_wrong") && !log.contains(ROOT), "{log}");
}

#[tokio::test]
async fn a_session_ends_by_time() {
    let server = Setup::new().config("[dashboard]\nidle_timeout = \"1m\"\nsession_lifetime = \"1m\"").start();
    let mut browser = Browser::operator(&server).await;
    let cookie = browser.cookies["keyward_session"].clone();
    browser.get(KEYS).await.is(200);
    // Time cannot be waited for here: the row is made older instead.
    let mut raw = server.sqlite().await;
    sqlx::query("UPDATE keyward_sessions SET idle_at = 1").execute(&mut raw).await.unwrap();
    browser.get(KEYS).await.is(303);
    sqlx::query("UPDATE keyward_sessions SET idle_at = 9000000000000000, ends_at = 1").execute(&mut raw).await.unwrap();
    browser.cookies.insert("keyward_session".to_owned(), cookie);
    browser.get(KEYS).await.is(303);
}

#[tokio::test]
async fn every_page_has_the_headers_that_protect_it() {
    let server = start();
    let mut browser = Browser::operator(&server).await;
    for path in ["/dashboard/overview", KEYS, "/dashboard/activity", "/dashboard/sign-in", "/dashboard/nowhere", "/"] {
        let page = browser.get(path).await;
        for (name, value) in [
            ("content-security-policy", POLICY),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "same-origin"),
        ] {
            assert_eq!(page.header(name), value, "{path} {name}");
        }
        for forbidden in [" style=", "<style", " onclick=", "javascript:", "http://", "https://"] {
            let html = page.html.replace("placeholder=\"https://\"", "");
            assert!(!html.contains(forbidden), "{forbidden} in {path}");
        }
        assert!(page.html.matches("<script").count() == page.html.matches("<script src=\"/dashboard/static/").count());
    }
}

#[tokio::test]
async fn files_are_kept_for_good_and_pages_never() {
    let server = start();
    let mut browser = Browser::new(&server);
    let page = browser.get("/dashboard/sign-in").await;
    let style = format!("/dashboard/static/{}", page.between("href=\"/dashboard/static/dashboard", "\"").trim());
    let style = style.replace("static/", "static/dashboard");
    let file = browser.get(&style).await.is(200);
    assert_eq!(file.header("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(file.header("content-type"), "text/css; charset=utf-8");
    browser.get("/dashboard/static/dashboard.css").await.is(404);
    browser.get("/dashboard/static/..%2f..%2fCargo.toml").await.is(404);
}

#[tokio::test]
async fn the_first_page_is_small_and_requests_no_other_host() {
    let server = start();
    let mut browser = Browser::operator(&server).await;
    let page = browser.get(KEYS).await.is(200);
    let mut bytes = page.html.len();
    for name in page.html.split("/dashboard/static/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        bytes += browser.get(&format!("/dashboard/static/{name}")).await.is(200).html.len();
    }
    assert!(bytes < 150 << 10, "{bytes} bytes");
}

#[tokio::test]
async fn the_cookie_is_protected_and_its_name_says_so_where_the_browser_uses_tls() {
    let server = start();
    for (host, forwarded, name) in [
        ("127.0.0.1:8080", "", "keyward_session"),
        ("localhost", "", "keyward_session"),
        ("127.0.0.1:8080", "https", "__Host-keyward_session"),
        ("keys.example.com", "", "__Host-keyward_session"),
        ("keys.example.com", "https", "__Host-keyward_session"),
    ] {
        let mut browser = Browser::new(&server);
        let mut send = async |request: reqwest::RequestBuilder| {
            let request = request.header("host", host);
            let request = if forwarded.is_empty() { request } else { request.header("x-forwarded-proto", forwarded) };
            browser.send(request).await
        };
        let client = Browser::new(&server);
        let form = send(client.request(reqwest::Method::GET, "/dashboard/sign-in")).await.is(200);
        let token = form.value("token");
        let cookie = form.header("set-cookie").split(';').next().unwrap().to_owned();
        let submit = client.request(reqwest::Method::POST, "/dashboard/sign-in").header("cookie", cookie);
        let fields = [("token", token.as_str()), ("return_to", ""), ("credential", ROOT)];
        let page = send(submit.header("sec-fetch-site", "same-origin").form(&fields)).await;
        // Wherever the request came from, it is sent to a path of this host.
        assert_eq!(page.location(), "/dashboard");
        let set = page.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
        let set: Vec<_> = set.filter(|value| value.starts_with(&format!("{name}="))).collect();
        assert_eq!(set.len(), 1, "{host} {forwarded}");
        assert!(set[0].contains("; Path=/; HttpOnly; SameSite=Lax; Max-Age=604800"), "{}", set[0]);
        assert_eq!(set[0].ends_with("; Secure"), name.starts_with("__Host-"), "{}", set[0]);
    }
}

#[tokio::test]
async fn the_dashboard_can_be_switched_off() {
    let server = Setup::new().env("KEYWARD_DASHBOARD_ENABLED", "false").start();
    for path in ["/", "/dashboard", "/dashboard/sign-in", "/dashboard/static/dashboard.css"] {
        assert_eq!(server.rest("GET", path).send().await.unwrap().status(), 404, "{path}");
    }
    assert!(!server.output().contains("dashboard"));
}

#[tokio::test]
async fn the_greeting_names_the_dashboard_and_the_printed_root_key_signs_in() {
    let server = Setup::new().without_root().start();
    let output = server.output();
    assert!(output.contains(&format!("http://{}/dashboard", server.http)), "{output}");
    let root = output.lines().find_map(|line| line.split("root key, shown this once: ").nth(1)).unwrap();
    Browser::with(&server, root.trim()).await.get(KEYS).await.is(200).has("Operator");
}
