//! People in the dashboard: signing in at a real OpenID Connect provider, and what each role may do.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    Server, Setup,
    dashboard::{Browser, KEYS, Page},
    oidc::Provider,
    server::ROOT,
};

const CLIENT: &str = "dashboard = { client_id = \"keyward\", client_secret = \"test\", scopes = [\"openid\"] }";

struct World {
    server: Server,
    provider: Provider,
}

impl World {
    fn new() -> Self {
        Self::with(Provider::start(), "", "")
    }

    fn with(provider: Provider, more: &str, settings: &str) -> Self {
        let client = if more.is_empty() { CLIENT } else { more };
        let table = provider.table("dashboard-api", &["norrix"], client);
        let server = Setup::new().ready("all").and(settings).and(&table).start();
        Self { server, provider }
    }

    /// Follows the provider's pages until it sends the browser back; the path of the callback.
    async fn log_in(&self, browser: &mut Browser, login: &str, start: &str) -> String {
        let begun = browser.get(start).await;
        let mut idp = Browser::new(&self.server);
        let mut page = idp.get(begun.location()).await;
        for _ in 0..20 {
            if page.status >= 300 && page.status < 400 {
                let to = page.header("location").to_owned();
                let own = format!("http://{}", self.server.http);
                if let Some(path) = to.strip_prefix(&own) {
                    return path.to_owned();
                }
                let to = if to.starts_with('/') { format!("{}{to}", self.provider.issuer) } else { to };
                page = idp.get(&to).await;
                continue;
            }
            let action = page.between("action=\"", "\"");
            let prompt = if page.html.contains("name=\"login\"") { "login" } else { "consent" };
            let fields = [("prompt", prompt), ("login", login), ("password", "any")];
            let request = idp.request(reqwest::Method::POST, &action).form(&fields);
            page = idp.send(request).await;
        }
        panic!("the provider does not come to an end: {}", page.html)
    }

    async fn start_link(&self, browser: &mut Browser) -> String {
        let page = browser.get("/dashboard/sign-in").await.is(200).has("Continue with 127.0.0.1");
        page.between("<a class=\"button wide\" href=\"", "\"")
    }

    /// A browser in which a person is signed in: `subject/organization/role`.
    async fn person(&self, login: &str) -> Browser {
        let mut browser = Browser::new(&self.server);
        let start = self.start_link(&mut browser).await;
        let callback = self.log_in(&mut browser, login, &start).await;
        let page = browser.get(&callback).await;
        assert_eq!(page.location(), "/dashboard", "{}", page.html);
        browser
    }

    async fn create(&self, browser: &mut Browser, name: &str) -> Page {
        browser.create(&[("keyspace", "norrix"), ("name", name), ("scope", "build")]).await
    }
}

fn id_of(page: &Page) -> String {
    page.between("data-leave=\"/dashboard/settings/api-keys/", "\"").split('?').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_person_signs_in_creates_and_revokes_a_key() {
    let world = World::new();
    let mut olga = world.person("olga/acme/owner").await;
    olga.get(KEYS).await.is(200).has("olga").has("Owner of acme").has("No API keys yet");
    let made = world.create(&mut olga, "GitHub Actions").await.is(201);
    let id = id_of(&made);
    let record = world.server.call("GET", &format!("/api/api-keys/{id}"), Some(ROOT), Value::Null).await.1;
    assert_eq!((&record["createdBy"], &record["orgId"]), (&json!("user:olga/acme/owner"), &json!("acme")));
    let page = olga.act(&format!("{KEYS}/{id}/revoke"), &[("confirmation", "GitHub Actions"), ("reason", "")]).await;
    page.is(200).has("Dead on 1 of 1 replica");
    olga.act("/dashboard/sign-out", &[]).await.is(303);
    olga.get(KEYS).await.is(303);
}

#[tokio::test]
async fn a_persons_sign_in_is_an_event_of_the_organization() {
    let provider = Provider::start();
    let table = "[events]\nsummary_period = \"1s\"\n";
    let world = World::with(provider, "", table);
    let mut olga = world.person("olga/acme/owner").await;
    let mut eve = world.person("eve/globex/owner").await;
    let path = "/dashboard/activity?type=session.signed_in";
    let start = Instant::now();
    // Sums are written once a period.
    let page = loop {
        let page = olga.get(path).await.is(200);
        if page.html.contains("method: oidc") {
            break page;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{}", page.html);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let page = page.has("Signed in").has("olga/acme/owner");
    assert!(!page.html.contains("eve/globex"), "{}", page.html);
    assert!(!eve.get(path).await.is(200).html.contains("olga/acme"));
}

/// The same matrix as REST's: owner, admin and member; and nobody sees another organization.
#[tokio::test]
async fn each_role_may_do_in_the_browser_what_it_may_do_over_rest() {
    let world = World::new();
    let mut olga = world.person("olga/acme/owner").await;
    let mut adam = world.person("adam/acme/admin").await;
    let mut mia = world.person("mia/acme/member").await;
    let mut eve = world.person("eve/globex/owner").await;
    let hers = id_of(&world.create(&mut olga, "hers").await.is(201));
    let his = id_of(&world.create(&mut adam, "his").await.is(201));
    let revoke = async |browser: &mut Browser, id: &str, name: &str| {
        browser.act(&format!("{KEYS}/{id}/revoke"), &[("confirmation", name), ("reason", "")]).await.status
    };
    // An admin sees all keys, and changes its own. It may not grant the admin scope, which is not even offered.
    adam.get(KEYS).await.is(200).has("hers").has("his");
    let of_olga = adam.get(&format!("{KEYS}/{hers}")).await.is(200);
    assert!(!of_olga.html.contains("Revoke…") && !of_olga.html.contains("name=\"url\""));
    adam.get(&format!("{KEYS}/{hers}/revoke")).await.is(403).has("may change only the keys that it created");
    assert_eq!(revoke(&mut adam, &hers, "hers").await, 403);
    adam.act(
        &format!("{KEYS}/{hers}/webhook"),
        &[("action", "set"), ("url", "https://h.example/"), ("once", "aaaaaaaaaaaaaaaa")],
    )
    .await
    .is(403);
    let form = adam.get(&format!("{KEYS}/new")).await.is(200);
    assert!(!form.html.contains("value=\"admin\""));
    assert!(olga.get(&format!("{KEYS}/new")).await.html.contains("value=\"admin\""));
    adam.create(&[("keyspace", "norrix"), ("name", "n"), ("scope", "admin")])
        .await
        .is(403)
        .has("Only an owner may grant");
    let preview = adam.act(&format!("{KEYS}/selected"), &[("id", &hers), ("id", &his)]).await.is(200);
    preview.has("Revoke 1 key?").has("may change only");
    // A member may do nothing, and every refusal is a page that says so.
    for path in [KEYS, "/dashboard/activity", "/dashboard/overview", "/dashboard/activity.csv"] {
        mia.get(path).await.is(403).has("Members cannot manage API keys").has("Sign out");
    }
    mia.get(&format!("{KEYS}/{hers}")).await.is(403);
    mia.get(&format!("{KEYS}/new")).await.is(403);
    assert_eq!(revoke(&mut mia, &hers, "hers").await, 403);
    mia.get("/dashboard/settings/sessions").await.is(200);
    // To another organization the key does not exist.
    for id in [hers.as_str(), "key_01h455vb4pex5vsknk084sn02q", "nonsense"] {
        eve.get(&format!("{KEYS}/{id}")).await.is(404).has("No such API key");
        assert_eq!(revoke(&mut eve, id, "hers").await, 404);
    }
    let seen = eve.get(KEYS).await.is(200);
    assert!(!seen.html.contains("hers") && !seen.html.contains("his"));
    for foreign in
        [format!("{KEYS}?org=acme"), format!("{KEYS}?organization=acme"), "/dashboard/overview?org=acme".to_owned()]
    {
        eve.get(&foreign).await.is(403).has("not this caller");
    }
    eve.get(&format!("{KEYS}?keyspace=noro")).await.is(403);
    assert!(!eve.get("/dashboard/activity").await.is(200).html.contains("hers"));
    // Only operators see the installation.
    let overview = olga.get("/dashboard/overview").await.is(200);
    assert!(!overview.html.contains("Replicas") && !overview.html.contains("Verdicts"));
    // An owner ends any key.
    assert_eq!(revoke(&mut olga, &his, "his").await, 200);
    let admin = world.create(&mut olga, "x").await.is(201);
    assert_eq!(revoke(&mut olga, &id_of(&admin), "x").await, 200);
}

#[tokio::test]
async fn an_admin_key_manages_its_own_organization_alone() {
    let world = World::new();
    let admin = json!({"name": "admin", "keyspace": "norrix", "orgId": "acme", "scopes": ["admin"]});
    let admin = world.server.create(admin).await;
    let foreign = world.server.create(json!({"name": "foreign", "keyspace": "norrix", "orgId": "globex"})).await;
    let mut browser = Browser::with(&world.server, admin["key"].as_str().unwrap()).await;
    let list = browser.get(KEYS).await.is(200).has("Admin key of acme");
    assert!(!list.html.contains("foreign"));
    browser.get(&format!("{KEYS}/{}", foreign["id"].as_str().unwrap())).await.is(404);
    browser.get(&format!("{KEYS}?organization=globex")).await.is(403);
    let made = browser.create(&[("keyspace", "norrix"), ("name", "ci"), ("scope", "build")]).await.is(201);
    let record = format!("/api/api-keys/{}", id_of(&made));
    let record = world.server.call("GET", &record, Some(ROOT), Value::Null).await.1;
    assert_eq!(
        (&record["orgId"], &record["createdBy"]),
        (&json!("acme"), &json!(format!("key:{}", admin["id"].as_str().unwrap())))
    );
}

#[tokio::test]
async fn a_person_of_several_organizations_switches_between_them() {
    let world = World::new();
    let mut olga = world.person("olga/acme+globex/owner").await;
    olga.create(&[("keyspace", "norrix"), ("name", "of acme"), ("scope", "build"), ("org", "acme")]).await.is(201);
    olga.create(&[("keyspace", "norrix"), ("name", "of globex"), ("scope", "build"), ("org", "globex")]).await.is(201);
    let page = olga.get(KEYS).await.is(200).has("of acme").has("<option value=\"acme\" selected>");
    assert!(!page.html.contains("of globex"));
    let page = olga.get(&format!("{KEYS}?org=globex")).await.is(200).has("of globex").has("Owner of globex");
    assert!(!page.html.contains("of acme"));
    // Links keep the choice.
    page.has("/dashboard/activity?org=globex").has("name=\"org\" value=\"globex\"");
    olga.get(&format!("{KEYS}?org=other")).await.is(403);
}

#[tokio::test]
async fn an_answer_that_belongs_to_no_sign_in_is_refused() {
    let world = World::new();
    let mut browser = Browser::new(&world.server);
    let start = world.start_link(&mut browser).await;
    let callback = world.log_in(&mut browser, "olga/acme/owner", &start).await;
    let begun = browser.clone();
    let code = callback.split("code=").nth(1).unwrap().split('&').next().unwrap().to_owned();
    // Another browser, one that began another sign-in, and a state that was changed.
    Browser::new(&world.server).get(&callback).await.is(403).has("start again");
    let mut other = Browser::new(&world.server);
    let other_start = world.start_link(&mut other).await;
    other.get(&other_start).await.is(303);
    other.get(&callback).await.is(403).has("belongs to another sign-in");
    for query in [format!("code={code}&state=x"), format!("code={code}"), String::new(), "state=".to_owned()] {
        begun.clone().get(&format!("/dashboard/sign-in/callback?{query}")).await.is(403);
    }
    let state = callback.split("state=").nth(1).unwrap().split('&').next().unwrap();
    // Another issuer's answer (RFC 9207), and none of this issuer's.
    let foreign = format!("/dashboard/sign-in/callback?code={code}&state={state}&iss=https%3A%2F%2Fevil.example");
    begun.clone().get(&foreign).await.is(403);
    begun.clone().get(&format!("/dashboard/sign-in/callback?code={code}&state={state}")).await.is(403);
    // What the login says is text.
    for (error, shown) in [("access_denied", "access_denied"), ("%3Cscript%3E", "an unknown error")] {
        let page = begun.clone().get(&format!("/dashboard/sign-in/callback?error={error}&state={state}")).await.is(403);
        assert!(!page.has(shown).html.contains("<script>"));
    }
    // The right one is good once.
    browser.get(&callback).await.is(303);
    browser.get(&callback).await.is(403).has("is over already");
    begun.clone().get(&callback).await.is(403).has("could not be used");
    browser.get(KEYS).await.is(200);
    for cookie in ["", "x", "AAAA"] {
        let mut forged = Browser::new(&world.server);
        forged.cookies.insert("keyward_sign_in".to_owned(), cookie.to_owned());
        forged.get(&callback).await.is(403);
    }
}

#[tokio::test]
async fn a_sign_in_at_the_issuer_returns_to_the_page_that_was_asked_for_and_to_no_other_site() {
    let world = World::new();
    for (asked, expected) in [("/dashboard/overview", "/dashboard/overview"), ("https://evil.example/", "/dashboard")] {
        let mut browser = Browser::new(&world.server);
        let start = world.start_link(&mut browser).await;
        let start = start
            .replace("return_to=%2Fdashboard", &format!("return_to={}", asked.replace('/', "%2F").replace(':', "%3A")));
        let callback = world.log_in(&mut browser, "olga/acme/owner", &start).await;
        assert_eq!(browser.get(&callback).await.location(), expected);
    }
}

#[tokio::test]
async fn an_address_that_is_not_configured_is_given_to_no_issuer() {
    let world = World::new();
    let mut browser = Browser::new(&world.server);
    let start = world.start_link(&mut browser).await;
    let request = browser.request(reqwest::Method::GET, &start).header("host", "evil.example");
    browser.send(request).await.is(409).has("dashboard.url");
    let configured = World::with(Provider::start(), "", "[dashboard]\nurl = \"https://keys.example.com\"\n");
    let mut browser = Browser::new(&configured.server);
    let start = configured.start_link(&mut browser).await;
    let request = browser.request(reqwest::Method::GET, &start).header("host", "evil.example");
    let to = browser.send(request).await.location().to_owned();
    assert!(to.starts_with(&configured.provider.issuer), "{to}");
    assert!(to.contains("redirect_uri=https%3A%2F%2Fkeys.example.com%2Fdashboard%2Fsign-in%2Fcallback"), "{to}");
    assert!(to.contains("code_challenge_method=S256") && to.contains("nonce=") && to.contains("state="), "{to}");
}

#[tokio::test]
async fn while_the_issuer_is_away_the_page_says_so_and_a_key_signs_in() {
    let mut provider = Provider::start();
    provider.stop();
    let world = World::with(provider, "", "");
    let mut browser = Browser::new(&world.server);
    let start = world.start_link(&mut browser).await;
    browser.get(&start).await.is(503).has("cannot be reached").has("Signing in with a key works");
    Browser::operator(&world.server).await.get(KEYS).await.is(200);
}

#[tokio::test]
async fn a_token_that_expires_is_refreshed_once_for_all_requests_and_a_refused_refresh_ends_the_session() {
    let provider = Provider::with_id_token_ttl(3);
    let mut world = World::with(provider, "", "");
    let olga = world.person("olga/acme/owner").await;
    let start = Instant::now();
    // The provider takes a refresh token once: a second request with the same one would end the session.
    let refreshed = loop {
        let requests = (0..6).map(|_| {
            let mut browser = olga.clone();
            async move { browser.get(KEYS).await.is(200) }
        });
        futures::future::join_all(requests).await;
        let refreshed = world.provider.requests("POST /token");
        if start.elapsed() >= Duration::from_secs(8) && refreshed >= 3 {
            break refreshed;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{refreshed} requests to the token endpoint");
        tokio::time::sleep(Duration::from_millis(400)).await;
    };
    // The one of the sign-in is among them.
    assert!(refreshed as u64 <= start.elapsed().as_secs(), "{refreshed} requests to the token endpoint");
    // The provider forgets its grants with its memory.
    world.provider.again("first");
    let start = Instant::now();
    loop {
        let mut browser = olga.clone();
        if browser.get(KEYS).await.status == 303 {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "the session does not end");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn signing_out_ends_the_issuers_session_where_that_is_configured() {
    let provider = Provider::start();
    let client = format!(
        "dashboard = {{ client_id = \"keyward\", client_secret = \"test\", scopes = [\"openid\"], logout_url = \
         \"{}/logout\", logout_params = {{ client_id = \"{{client_id}}\", logout_uri = \"{{return_to}}\" }} }}",
        provider.issuer
    );
    let world = World::with(provider, &client, "");
    let mut olga = world.person("olga/acme/owner").await;
    let page = olga.act("/dashboard/sign-out", &[]).await.is(200).has("You are signed out");
    let to = format!(
        "{}/logout?client_id=keyward&logout_uri=http%3A%2F%2F{}%2Fdashboard%2Fsign-in",
        world.provider.issuer,
        world.server.http.replace(':', "%3A")
    );
    assert_eq!(page.header("refresh"), format!("0; url={to}"));
    olga.get(KEYS).await.is(303);
}

/// Who reads the database gets neither a session nor a token of the issuer.
#[tokio::test]
async fn the_database_holds_no_cookie_and_no_refresh_token_in_the_clear() {
    let world = World::new();
    let olga = world.person("olga/acme/owner").await;
    let mut raw = world.server.sqlite().await;
    let row: (Vec<u8>, Vec<u8>, String) =
        sqlx::query_as("SELECT id, refresh_token, actor FROM keyward_sessions").fetch_one(&mut raw).await.unwrap();
    let cookie = data_encoding::BASE64URL_NOPAD.decode(olga.cookies["keyward_session"].as_bytes()).unwrap();
    assert_ne!(row.0, &cookie[..32]);
    assert_eq!(row.2, "user:olga/acme/owner");
    assert!(row.1.len() > 28, "a refresh token is kept");
    assert!(!row.1.iter().all(u8::is_ascii), "and it is sealed");
    // Moved to another session's row, it does not open.
    let log = world.server.log();
    assert!(!log.contains(&olga.cookies["keyward_session"]), "{log}");
}
