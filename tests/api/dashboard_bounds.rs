//! What every response of the dashboard has, whatever its status, and what bounds a page.

use serde_json::json;

use crate::support::{
    Setup,
    dashboard::{Browser, KEYS, POLICY, Page},
    server::ROOT,
};

/// The attacks: a proxy keeps a page and gives it to somebody else, or another site shows it in a frame.
#[tokio::test]
async fn no_response_is_cached_or_framed_whatever_its_status() {
    let server = Setup::new().start();
    let (mut browser, mut stranger) = (Browser::operator(&server).await, Browser::new(&server));
    let fields = browser.creation("n").await;
    let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
    let made = browser.post(KEYS, &fields).await.is(201);
    let (secret, id) = (made.secret(), made.between("data-leave=\"/dashboard/settings/api-keys/", "\""));
    let huge = "x".repeat(70_000);
    let foreign = browser.request(reqwest::Method::POST, KEYS).header("origin", "https://evil.example").form(&fields);
    let foreign = browser.send(foreign).await.is(403);
    let env = [("variable", "API_KEY"), ("secret", secret.as_str())];
    let responses: Vec<(&str, Page)> = vec![
        ("the page with a secret", made),
        ("a form of another origin", foreign),
        ("a form that was sent again", browser.post(KEYS, &fields).await.is(409)),
        ("a mistake", browser.create(&[("keyspace", "default"), ("name", "")]).await.is(400)),
        ("a form that is too large", browser.act(KEYS, &[("metadata", huge.as_str())]).await.is(413)),
        ("a file", browser.act(&format!("{KEYS}/env"), &env).await.is(200)),
        ("the audit log", browser.get("/dashboard/activity.csv").await.is(200)),
        ("a key", browser.get(&format!("{KEYS}/{id}")).await.is(200)),
        ("no key", browser.get(&format!("{KEYS}/nonsense")).await.is(404)),
        ("a bad filter", browser.get("/dashboard/activity?since=x").await.is(400)),
        ("no such page", browser.get("/dashboard/nowhere").await.is(404)),
        ("a page without a session", stranger.get(KEYS).await.is(303)),
        ("a form without a session", stranger.post(KEYS, &fields).await.is(403)),
        ("a failed sign-in", stranger.sign_in("ak_wrong").await.is(401)),
        ("a callback of no sign-in", stranger.get("/dashboard/sign-in/callback?code=x&state=y").await.is(403)),
        ("an issuer that is none", stranger.get("/dashboard/sign-in/start?issuer=x").await.is(404)),
        ("the sign-out", browser.act("/dashboard/sign-out", &[]).await.is(303)),
    ];
    for (what, page) in responses {
        for (name, value) in [
            ("cache-control", "no-store"),
            ("content-security-policy", POLICY),
            ("x-frame-options", "DENY"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(page.header(name), value, "{what}: {name}");
        }
    }
}

/// The attack: a receiver answers with markup. Its words are for operators, who run the installation.
#[tokio::test]
async fn a_delivery_shows_its_attempts_and_the_receivers_answer_to_operators_alone() {
    let server = Setup::new().ready("norrix").start();
    let hooked = json!({"name": "ci", "orgId": "acme", "webhook": "https://hooks.example/x"});
    let key = server.create(hooked).await;
    let admin = server.create(json!({"name": "admin", "orgId": "acme", "scopes": ["admin"]})).await;
    let failed = "UPDATE keyward_deliveries SET state = 'failed', attempts = 9, last_status = 500, last_error = \
                  'the receiver answered 500', last_response = '<b>broken</b>', attempted_at = 1, settled_at = 1";
    sqlx::query(failed).execute(&mut server.sqlite().await).await.unwrap();
    let path = format!("{KEYS}/{}", key["id"].as_str().unwrap());
    let mut operator = Browser::operator(&server).await;
    let page = operator.get(&path).await.is(200).has("hooks.example").has("HTTP 500").has("&#60;b&#62;broken");
    let page = page.has("chip failed").has("<td role=\"cell\" data-label=\"Attempts\">9</td>");
    assert!(!page.html.contains("<b>"));
    let mut owner = Browser::with(&server, admin["key"].as_str().unwrap()).await;
    let own = owner.get(&path).await.is(200).has("HTTP 500");
    assert!(!own.html.contains("broken"), "{}", own.html);
    // Sent again, by a form of the page.
    let event = own.value("event");
    owner.act(&format!("{path}/redeliver"), &[("event", &event)]).await.is(303);
    owner.get(&path).await.is(200).has("chip pending");
    for unknown in ["", "nonsense", "evt_01h455vb4pex5vsknk084sn02q"] {
        let status = owner.act(&format!("{path}/redeliver"), &[("event", unknown)]).await.status;
        assert!(status == 400 || status == 404, "{unknown}: {status}");
    }
}

/// More keys than a page may look at: pages say what they left out.
#[tokio::test]
async fn a_page_reports_what_it_did_not_read() {
    let server = Setup::new().ready("norrix").start();
    let admin = server.create(json!({"name": "admin", "orgId": "zeta", "scopes": ["admin"]})).await;
    let many = "INSERT INTO keyward_keys (id, keyspace, digest, prefix, organization, name, created_by, created_at)
        WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000)
        SELECT unhex(printf('%032x', n)), 'norrix', unhex(printf('%064x', n)), 'nrx_00000000', 'acme', 'bulk ' || n, \
                'root', 1 FROM numbers";
    sqlx::query(many).execute(&mut server.sqlite().await).await.unwrap();
    let mut operator = Browser::operator(&server).await;
    operator
        .get("/dashboard/overview")
        .await
        .is(200)
        .has("the newest 100,000")
        .has("<span class=\"number\">100,000</span>");
    let mut owner = Browser::with(&server, admin["key"].as_str().unwrap()).await;
    let own = owner.get("/dashboard/overview").await.is(200);
    assert!(!own.html.contains("the newest 100,000"), "{}", own.html);
    // The search of a small organization does not read the keys of all others.
    owner.get(&format!("{KEYS}?q=bulk")).await.is(200).has("No key fits").has("not every one was looked at");
    let found = owner.get(&format!("{KEYS}?q=admin")).await.is(200);
    assert!(found.html.contains("<bdi>admin</bdi>") && !found.html.contains("was looked at"), "{}", found.html);
    operator.get(&format!("{KEYS}?q=bulk")).await.is(200).has("Only the first 50 are shown");
    assert!(!server.log().contains(ROOT));
}
