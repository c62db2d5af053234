//! Forms that are not this session's, and forms that no page sends.

use serde_json::{Value, json};

use crate::support::{
    Server, Setup,
    dashboard::{Browser, KEYS},
    server::ROOT,
};

/// Every form that changes something or hands something out.
async fn forms(server: &Server) -> Vec<(String, Vec<(&'static str, String)>)> {
    let made = server.create(json!({"name": "target", "webhook": "https://hooks.example/"})).await;
    let id = made["id"].as_str().unwrap().to_owned();
    let once = || ("once", "abcdefghijklmnop".to_owned());
    vec![
        (KEYS.to_owned(), vec![("name", "forged".to_owned()), ("keyspace", "default".to_owned()), once()]),
        (format!("{KEYS}/{id}/revoke"), vec![("confirmation", "target".to_owned()), ("reason", String::new())]),
        (format!("{KEYS}/{id}/webhook"), vec![("action", "remove".to_owned()), once()]),
        (format!("{KEYS}/{id}/redeliver"), vec![("event", id.replacen("key_", "evt_", 1))]),
        (format!("{KEYS}/selected"), vec![("id", id.clone())]),
        (format!("{KEYS}/selected/revoke"), vec![("id", id.clone()), ("sure", "yes".to_owned())]),
        (
            format!("{KEYS}/env"),
            vec![("variable", "API_KEY".to_owned()), ("secret", made["key"].as_str().unwrap().to_owned())],
        ),
        ("/dashboard/settings/sessions".to_owned(), vec![("session", "x".to_owned())]),
        ("/dashboard/sign-out".to_owned(), vec![]),
    ]
}

async fn nothing_changed(server: &Server) {
    let listed = server.call("GET", "/api/api-keys?keyspace=default", Some(ROOT), Value::Null).await.1;
    let keys = listed["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert_eq!((&keys[0]["status"], &keys[0]["webhook"]), (&json!("active"), &json!("https://hooks.example/")));
}

/// The attack: a page of another site sends a form with the victim's cookie.
#[tokio::test]
async fn a_form_of_another_origin_is_refused_although_its_token_is_right() {
    let server = Setup::new().start();
    let mut browser = Browser::operator(&server).await;
    let token = browser.token().await;
    let same = format!("http://{}", server.http);
    for (path, fields) in forms(&server).await {
        let fields: Vec<_> = [("token", token.clone())].into_iter().chain(fields).collect();
        for foreign in [
            vec![("sec-fetch-site", "cross-site")],
            vec![("sec-fetch-site", "same-site")],
            vec![("sec-fetch-site", "none")],
            vec![("sec-fetch-site", "cross-site"), ("origin", same.as_str())],
            vec![("origin", "https://evil.example")],
            vec![("origin", "null")],
        ] {
            let mut request = browser.request(reqwest::Method::POST, &path).form(&fields);
            for (name, value) in &foreign {
                request = request.header(*name, *value);
            }
            browser.send(request).await.is(403).has("was not sent by a page of this dashboard");
        }
    }
    nothing_changed(&server).await;
    browser.get(KEYS).await.is(200);
}

/// The attack: the same from a browser that says nothing of where a form comes from. Only the token is left.
#[tokio::test]
async fn a_form_without_this_sessions_token_is_refused() {
    let server = Setup::new().start();
    let (mut browser, mut another) = (Browser::operator(&server).await, Browser::operator(&server).await);
    let (good, other) = (browser.token().await, another.token().await);
    let mut old = browser.clone();
    let old_token = old.token().await;
    browser.sign_in(ROOT).await.is(303);
    let flipped = format!("{}{}", if good.starts_with('A') { 'B' } else { 'A' }, &good[1..]);
    for (path, fields) in forms(&server).await {
        for token in ["", "x", &other, &old_token, &flipped, &good[1..], ROOT] {
            for header in [None, Some(("sec-fetch-site", "same-origin"))] {
                let fields: Vec<_> = [("token", token.to_owned())].into_iter().chain(fields.clone()).collect();
                let mut request = browser.request(reqwest::Method::POST, &path).form(&fields);
                if let Some((name, value)) = header {
                    request = request.header(name, value);
                }
                browser.send(request).await.is(403).has("out of date");
            }
        }
        let request = browser.request(reqwest::Method::POST, &path).form(&fields);
        browser.send(request).await.is(403);
    }
    nothing_changed(&server).await;
}

#[tokio::test]
async fn a_form_of_a_browser_that_sends_no_header_is_accepted_by_its_token() {
    let server = Setup::new().start();
    let mut browser = Browser::operator(&server).await;
    let fields = browser.creation("n").await;
    let request = browser.request(reqwest::Method::POST, KEYS).form(&fields);
    browser.send(request).await.is(201);
}

/// The attack: the victim is signed in to the attacker's account, and creates keys there.
#[tokio::test]
async fn the_sign_in_form_is_this_browsers_own() {
    let server = Setup::new().start();
    let (mut browser, mut attacker) = (Browser::new(&server), Browser::new(&server));
    let own = browser.get("/dashboard/sign-in").await.value("token");
    let theirs = attacker.get("/dashboard/sign-in").await.value("token");
    for token in ["", "x", &theirs] {
        let fields = [("token", token), ("return_to", ""), ("credential", ROOT)];
        browser.post("/dashboard/sign-in", &fields).await.is(403);
    }
    let fields = [("token", own.as_str()), ("return_to", ""), ("credential", ROOT)];
    let foreign = browser.request(reqwest::Method::POST, "/dashboard/sign-in").header("sec-fetch-site", "cross-site");
    browser.send(foreign.form(&fields)).await.is(403);
    let mut bare = Browser::new(&server);
    bare.post("/dashboard/sign-in", &fields).await.is(403);
    assert!(!browser.cookies.contains_key("keyward_session"));
    browser.post("/dashboard/sign-in", &fields).await.is(303);
}

#[tokio::test]
async fn missing_double_unknown_and_huge_fields_are_refused_by_name() {
    let server = Setup::new().start();
    let mut browser = Browser::operator(&server).await;
    let once = browser.get(&format!("{KEYS}/new")).await.value("once");
    let good = [("once", once.as_str()), ("keyspace", "default"), ("name", "n")];
    for (more, sentence) in [
        (vec![("name", "again")], "name: must be given once"),
        (vec![("surprise", "1")], "surprise: unknown field"),
        (vec![("<script>", "1")], "unknown field"),
    ] {
        let page = browser.act(KEYS, &[&good[..], &more].concat()).await.is(400).has(sentence);
        assert!(!page.html.contains("<script>:"));
    }
    let huge = "x".repeat(70_000);
    browser.act(KEYS, &[&good[..], &[("metadata", huge.as_str())]].concat()).await.is(413);
    let many: Vec<(&str, &str)> = (0..300).map(|_| ("id", "x")).collect();
    browser.act(&format!("{KEYS}/selected"), &many).await.is(400).has("too many fields");
    let token = browser.token().await;
    for (content_type, body) in [
        ("application/json", format!("{{\"token\":\"{token}\"}}")),
        ("text/plain", format!("token={token}")),
        ("multipart/form-data; boundary=x", "--x--".to_owned()),
    ] {
        let request = browser.request(reqwest::Method::POST, KEYS).header("content-type", content_type).body(body);
        browser.send(request).await.is(400).has("must be application/x-www-form-urlencoded");
    }
    let binary =
        browser.request(reqwest::Method::POST, KEYS).header("content-type", "application/x-www-form-urlencoded");
    browser.send(binary.body(vec![0xff; 1_000])).await.is(403);
    let listed = server.call("GET", "/api/api-keys?keyspace=default", Some(ROOT), Value::Null).await.1;
    assert_eq!(listed["keys"], json!([]));
}

#[tokio::test]
async fn a_session_of_the_dashboard_is_no_credential_of_the_api() {
    let server = Setup::new().start();
    let browser = Browser::operator(&server).await;
    let request = browser.request(reqwest::Method::GET, "/api/api-keys");
    assert_eq!(request.send().await.unwrap().status(), 401);
}
