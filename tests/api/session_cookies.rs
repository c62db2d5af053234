//! Sessions in cookies: which cookie is accepted, and for which requests.

use serde_json::{Value, json};

use crate::support::{Server, Setup, oidc::Provider, reply, server::ROOT};

const MANY: &str = "/api/api-keys";

struct World {
    server: Server,
    provider: Provider,
    token: String,
}

impl World {
    async fn new() -> Self {
        let provider = Provider::start();
        let tables = provider.table("norrix", &["norrix"], "cookie = \"norrix_session\"")
            + &provider.table("nora", &["nora"], "cookie = \"nora_session\"")
            + &provider.table("noro", &["noro"], "");
        let server = Setup::new().ready("all").and(&tables).start();
        let token = provider.token("norrix", "olga", &json!({"acme": "owner"})).await;
        Self { server, provider, token }
    }

    fn with(&self, method: &str, path: &str, cookie: &str) -> reqwest::RequestBuilder {
        self.server.rest(method, path).header("cookie", cookie)
    }

    fn cookie(&self) -> String {
        format!("norrix_session={}", self.token)
    }
}

#[tokio::test]
async fn a_cookie_is_accepted_only_if_its_issuer_is_configured_with_its_name() {
    let world = World::new().await;
    let own = world.cookie();
    let nora = world.provider.token("nora", "noa", &json!({"acme": "owner"})).await;
    let noro = world.provider.token("noro", "noe", &json!({"acme": "owner"})).await;
    let token = &world.token;
    for good in [
        own.clone(),
        format!("theme=dark; {own}; lang=en"),
        format!("norrix_session=\"{token}\""),
        format!("nora_session={nora}"),
        format!("norrix_session=; {own}"),
    ] {
        reply(world.with("GET", MANY, &good)).await.good(200);
    }
    for (bad, code) in [
        (format!("session={token}"), "missing_credential"),
        (format!("Norrix_session={token}"), "missing_credential"),
        (format!("norrix_session {token}"), "missing_credential"),
        ("norrix_session=".to_owned(), "missing_credential"),
        ("norrix_session=garbage".to_owned(), "malformed"),
        // Each token in the other issuer's cookie, and a token whose issuer has no cookie.
        (format!("nora_session={token}"), "malformed"),
        (format!("norrix_session={nora}"), "malformed"),
        (format!("norrix_session={noro}"), "malformed"),
        // A key in a cookie is not accepted.
        (format!("norrix_session={ROOT}"), "malformed"),
    ] {
        reply(world.with("GET", MANY, &bad)).await.refused(401, code);
    }
}

/// The attack: a neighbouring host sets a cookie of the same name, so that its victim works in the attacker's account.
#[tokio::test]
async fn two_session_cookies_are_400() {
    let world = World::new().await;
    let other = world.provider.token("norrix", "eve", &json!({"acme": "owner"})).await;
    let (own, nora) = (world.cookie(), world.provider.token("nora", "noa", &json!({"acme": "owner"})).await);
    for cookies in
        [format!("{own}; norrix_session={other}"), format!("{own}; nora_session={nora}"), format!("{own}; {own}")]
    {
        reply(world.with("GET", MANY, &cookies)).await.bad(&["cookie"]);
    }
    let apart = world.with("GET", MANY, &own).header("cookie", format!("norrix_session={other}"));
    reply(apart).await.bad(&["cookie"]);
}

/// Browsers add cookies to every request. A credential in a header was sent on purpose.
#[tokio::test]
async fn a_credential_overrides_a_cookie() {
    let world = World::new().await;
    let made = |request: reqwest::RequestBuilder| {
        let request =
            request.header("cookie", world.cookie()).json(&json!({"name": "n", "keyspace": "norrix", "orgId": "acme"}));
        async move { reply(request).await.good(201)["createdBy"].clone() }
    };
    // No `Origin` is needed, since the cookie is not used.
    assert_eq!(made(world.server.rest("POST", MANY).bearer_auth(ROOT)).await, "root");
    let adam = world.provider.token("norrix", "adam", &json!({"acme": "admin"})).await;
    assert_eq!(made(world.server.rest("POST", MANY).bearer_auth(&adam)).await, "user:adam");
    // If the credential is of a kind that the route ignores, the cookie is used.
    let site = world.server.rest("POST", MANY).header("sec-fetch-site", "same-origin");
    assert_eq!(made(site.bearer_auth("garbage")).await, "user:olga");
}

/// The attack: a page of another origin makes the victim's browser send requests, and the browser adds the cookie.
#[tokio::test]
async fn a_change_with_a_cookie_requires_a_page_of_the_same_origin() {
    let world = World::new().await;
    let key = world.server.create(json!({"name": "n", "keyspace": "norrix", "orgId": "acme"})).await;
    let one = format!("{MANY}/{}", key["id"].as_str().unwrap());
    let host = &world.server.http;
    let changes = [
        ("POST", MANY, json!({"name": "n"})),
        ("PATCH", one.as_str(), json!({"webhook": "https://h.example/"})),
        ("DELETE", one.as_str(), Value::Null),
    ];
    let ask = async |(method, path, body): &(&str, &str, Value), headers: &[(&str, &str)]| {
        let mut request = world.with(method, path, &world.cookie());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_null() {
            request = request.json(body);
        }
        reply(request).await
    };
    let same = format!("http://{host}");
    let other_port = format!("http://{}:1", host.split(':').next().unwrap());
    for refused in [
        vec![],
        vec![("origin", "https://evil.example")],
        vec![("origin", "null")],
        vec![("origin", other_port.as_str())],
        vec![("sec-fetch-site", "cross-site")],
        vec![("sec-fetch-site", "same-site")],
        vec![("sec-fetch-site", "none")],
        vec![("sec-fetch-site", "cross-site"), ("origin", same.as_str())],
        vec![("referer", same.as_str())],
    ] {
        for change in &changes {
            let message = ask(change, &refused).await.refused(403, "forbidden");
            assert!(message.contains("same origin"), "{message}");
        }
    }
    let record = world.server.call("GET", &one, Some(ROOT), Value::Null).await.1;
    assert_eq!((&record["status"], &record["webhook"]), (&json!("active"), &Value::Null), "nothing was done");
    let listed = world.server.call("GET", &format!("{MANY}?keyspace=norrix"), Some(ROOT), Value::Null).await.1;
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1, "nothing was made");

    // Reads change nothing, and no other origin can read the response.
    reply(world.with("GET", MANY, &world.cookie()).header("sec-fetch-site", "cross-site")).await.good(200);
    for allowed in [vec![("origin", same.as_str())], vec![("sec-fetch-site", "same-origin")]] {
        for change in &changes {
            let answer = ask(change, &allowed).await;
            // In the second round the key is already revoked.
            assert!(matches!(answer.status, 200 | 201 | 409), "{answer:?}");
        }
    }
    let record = world.server.call("GET", &one, Some(ROOT), Value::Null).await.1;
    assert_eq!((&record["status"], &record["webhook"]), (&json!("revoked"), &json!("https://h.example/")));
    // Only its owner sends a bearer token.
    let body = json!({"name": "n"});
    let bearer = world.server.rest("POST", MANY).bearer_auth(&world.token).header("origin", "https://evil.example");
    reply(bearer.json(&body)).await.good(201);
}
