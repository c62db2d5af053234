//! Which tokens are accepted as sessions. The provider is real; tokens that it would not issue are signed with its own key.

use std::collections::HashMap;

use keyward::proto::ListRequest;
use reqwest::{Response, header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{
    Reply, Server, Setup,
    grpc::{assert_refused, check, list},
    oidc::{Provider, client, hs256, token},
    reply,
    server::with,
};

const MANY: &str = "/api/api-keys";

fn start(provider: &Provider, more: &str) -> Server {
    Setup::new().ready("norrix").and(&provider.table("dashboard", &["norrix"], more)).start()
}

async fn ask(server: &Server, token: &str) -> Reply {
    reply(server.rest("GET", MANY).bearer_auth(token)).await
}

/// The cookies that a browser keeps between the steps of a login.
#[derive(Default)]
struct Browser(HashMap<String, String>);

impl Browser {
    /// Sends a request with the stored cookies, and stores the new ones.
    async fn send(&mut self, request: reqwest::RequestBuilder) -> Response {
        let cookies: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let response = request.header(header::COOKIE, cookies.join("; ")).send().await.unwrap();
        for cookie in response.headers().get_all(header::SET_COOKIE) {
            let (name, value) = cookie.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap();
            self.0.insert(name.to_owned(), value.to_owned());
        }
        response
    }

    /// The target of a redirect.
    fn next(provider: &Provider, response: &Response) -> String {
        let location = response.headers().get(header::LOCATION).expect("a redirect").to_str().unwrap();
        if location.starts_with('/') { format!("{}{location}", provider.issuer) } else { location.to_owned() }
    }
}

/// Logs in by the authorization code flow with PKCE, and returns the ID token.
async fn log_in(provider: &Provider, login: &str) -> String {
    let (http, mut browser) = (client(), Browser::default());
    let verifier = "a-code-verifier-of-more-than-forty-three-characters";
    let challenge = data_encoding::BASE64URL_NOPAD.encode(&Sha256::digest(verifier));
    let redirect = "https://dashboard.example/callback";
    let mut url = url::Url::parse(&format!("{}/auth", provider.issuer)).unwrap();
    url.query_pairs_mut()
        .extend_pairs([("client_id", "dashboard"), ("response_type", "code"), ("scope", "openid")])
        .extend_pairs([("redirect_uri", redirect), ("code_challenge", &challenge), ("code_challenge_method", "S256")]);
    let mut response = browser.send(http.get(url.as_str())).await;
    let mut forms =
        [vec![("prompt", "login"), ("login", login), ("password", "any")], vec![("prompt", "consent")]].into_iter();
    let code = loop {
        let next = Browser::next(provider, &response);
        if let Some(query) = next.strip_prefix(redirect) {
            let pairs: HashMap<_, _> = url::form_urlencoded::parse(&query.as_bytes()[1..]).collect();
            break pairs["code"].to_string();
        }
        let request = if next.contains("/interaction/") {
            http.post(&next).form(&forms.next().expect("a form to fill in"))
        } else {
            http.get(&next)
        };
        response = browser.send(request).await;
    };
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", "dashboard"),
        ("client_secret", "test"),
        ("code", &code),
        ("redirect_uri", redirect),
        ("code_verifier", verifier),
    ];
    let answer: Value =
        http.post(format!("{}/token", provider.issuer)).form(&form).send().await.unwrap().json().await.unwrap();
    answer["id_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test]
async fn a_login_at_the_provider_gives_a_session_over_rest_and_grpc() {
    let provider = Provider::start();
    let server = start(&provider, "");
    let token = log_in(&provider, "olga/acme/owner").await;
    let made = reply(server.rest("POST", MANY).bearer_auth(&token).json(&json!({"name": "n"}))).await.good(201);
    assert_eq!((&made["orgId"], &made["createdBy"]), (&json!("acme"), &json!("user:olga/acme/owner")));
    let mut client = server.client().await;
    let keys = list(&mut client, &token, ListRequest::default()).await;
    assert_eq!((keys.len(), keys[0].created_by.as_str()), (1, "user:olga/acme/owner"));
    let member = log_in(&provider, "mia/acme/member").await;
    ask(&server, &member).await.refused(403, "forbidden");
}

/// The attacks: tokens that the provider did not sign, or that were issued for something else.
#[tokio::test]
async fn forged_expired_and_foreign_tokens_are_refused() {
    let provider = Provider::with_keys("first,ec1");
    let elsewhere = Provider::start();
    let server = start(&provider, "");
    let mut client = server.client().await;
    let good = provider.claims("dashboard", &json!({}));
    let sign = |more: Value| provider.sign("first", &provider.claims("dashboard", &more));
    ask(&server, &provider.sign("first", &good)).await.good(200);
    ask(&server, &provider.token("dashboard", "olga", &json!({"acme": "owner"})).await).await.good(200);

    let now = good["iat"].as_i64().unwrap();
    let header = |algorithm: &str| json!({"alg": algorithm, "typ": "JWT", "kid": "first"});
    let rs256 = provider.sign("first", &good);
    let (message, signature) = rs256.rsplit_once('.').unwrap();
    let (head, body) = message.split_once('.').unwrap();
    let owner_of = |organization: &str| json!({"norrix:orgs": {organization: "owner"}});
    let other_body = provider.sign("first", &provider.claims("dashboard", &owner_of("globex")));
    let other_body = other_body.split('.').nth(1).unwrap();
    let embedded = json!({
        "alg": "RS256", "kid": "mine", "jku": format!("{}/jwks", elsewhere.issuer),
        "jwk": {"kty": "RSA", "n": elsewhere.public("first", "n"), "e": "AQAB"},
    });
    let stranger = |message: &str| elsewhere.signature("first", message);
    let own = |message: &str| provider.signature("first", message);
    let public = |part: &str| provider.public("first", part);
    let modulus = data_encoding::BASE64URL_NOPAD.decode(public("n").as_bytes()).unwrap();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", public("n"));
    for (what, forged, reason) in [
        ("another provider's key under the same id", elsewhere.sign("first", &good), "malformed"),
        (
            "another provider's token",
            elsewhere.token("dashboard", "olga", &json!({"acme": "owner"})).await,
            "malformed",
        ),
        ("claims under another signature", format!("{head}.{other_body}.{signature}"), "malformed"),
        ("another head over the signature", format!("{}.{body}.{signature}", &head[..head.len() - 4]), "malformed"),
        ("no signature", format!("{message}."), "malformed"),
        ("half a signature", format!("{message}.{}", &signature[..signature.len() / 2]), "malformed"),
        ("alg none", token(&json!({"alg": "none"}), &good, |_| String::new()), "malformed"),
        ("alg None with the old signature", token(&header("None"), &good, |_| signature.to_owned()), "malformed"),
        ("HS256 with the modulus", token(&header("HS256"), &good, |m| hs256(&modulus, m)), "malformed"),
        (
            "HS256 with the modulus as text",
            token(&header("HS256"), &good, |m| hs256(public("n").as_bytes(), m)),
            "malformed",
        ),
        ("HS256 with the key in PEM", token(&header("HS256"), &good, |m| hs256(pem.as_bytes(), m)), "malformed"),
        ("a key of one's own in the header", token(&embedded, &good, stranger), "malformed"),
        ("an algorithm that is not configured", provider.sign("ec1", &good), "malformed"),
        (
            "a logout token",
            token(&json!({"alg": "RS256", "typ": "logout+jwt", "kid": "first"}), &good, own),
            "malformed",
        ),
        ("another audience", sign(json!({"aud": "cli"})), "malformed"),
        ("an audience that begins alike", sign(json!({"aud": "dashboard2"})), "malformed"),
        ("another client's", sign(json!({"aud": ["cli", "dashboard"], "azp": "cli"})), "malformed"),
        ("no audience", sign(json!({"aud": null})), "malformed"),
        ("another issuer", sign(json!({"iss": elsewhere.issuer})), "malformed"),
        ("the issuer with a slash", sign(json!({"iss": format!("{}/", provider.issuer)})), "malformed"),
        ("no issuer", sign(json!({"iss": null})), "malformed"),
        ("nobody", sign(json!({"sub": null})), "malformed"),
        ("no expiry", sign(json!({"exp": null})), "malformed"),
        ("an expiry that is text", sign(json!({"exp": (now + 600).to_string()})), "malformed"),
        ("expired", sign(json!({"exp": now - 120})), "expired"),
        ("not yet", sign(json!({"nbf": now + 300})), "malformed"),
        ("too long", sign(json!({"more": "x".repeat(9_000)})), "malformed"),
        ("no token", "a.b.c".to_owned(), "malformed"),
        ("dots", "..".to_owned(), "malformed"),
    ] {
        let answer = ask(&server, &forged).await;
        assert_eq!(answer.status, 401, "{what}: {answer:?}");
        assert_eq!(answer.refused(401, reason), "Invalid or expired API key", "{what}");
        let refused = client.list(with(&forged, ListRequest::default())).await;
        assert_refused(refused, tonic::Code::Unauthenticated, &reason.to_uppercase());
        let refused = client.verify(with(&forged, check("x"))).await;
        assert_refused(refused, tonic::Code::Unauthenticated, &reason.to_uppercase());
    }
    // A minute of clock skew is tolerated.
    for more in [
        json!({"exp": now - 20}),
        json!({"nbf": now + 30}),
        json!({"aud": ["cli", "dashboard"], "azp": "dashboard"}),
        json!({"aud": ["cli", "dashboard"]}),
    ] {
        ask(&server, &sign(more)).await.good(200);
    }
}

#[tokio::test]
async fn only_the_configured_algorithms_are_accepted() {
    let provider = Provider::with_keys("ec1,first");
    let server = start(&provider, "algorithms = [\"ES256\"]");
    let claims = provider.claims("dashboard", &json!({}));
    ask(&server, &provider.sign("ec1", &claims)).await.good(200);
    ask(&server, &provider.token("dashboard", "olga", &json!({"acme": "owner"})).await).await.good(200);
    ask(&server, &provider.sign("first", &claims)).await.refused(401, "malformed");
}

/// A token for one product must not be accepted for another one, although the same provider signs both.
#[tokio::test]
async fn an_audience_gives_access_to_its_own_keyspaces_only() {
    let provider = Provider::start();
    let tables = provider.table("norrix", &["norrix"], "") + &provider.table("nora", &["nora"], "");
    let server = Setup::new().ready("all").and(&tables).start();
    for (audience, own, other) in [("norrix", "norrix", "nora"), ("nora", "nora", "norrix")] {
        let token = provider.token(audience, "olga", &json!({"acme": "owner"})).await;
        let ask = async |keyspace: &str| {
            reply(server.rest("GET", &format!("{MANY}?keyspace={keyspace}")).bearer_auth(&token)).await
        };
        ask(own).await.good(200);
        ask(other).await.refused(403, "forbidden");
    }
}

/// Sessions are for management only: every other route rejects a token like any invalid credential.
#[tokio::test]
async fn a_session_cannot_act_as_a_key_or_verify_keys() {
    let provider = Provider::start();
    let table = provider.table("dashboard", &["noro"], "cookie = \"session\"");
    let server = Setup::new().ready("noro").and(&table).start();
    let olga = provider.token("dashboard", "olga", &json!({"acme": "owner"})).await;
    ask(&server, &olga).await.good(200);
    let cookie = format!("session={olga}");
    for (method, path) in [
        ("GET", "/api/v1/keys"),
        ("DELETE", "/api/v1/keys"),
        ("PATCH", "/api/v1/keys"),
        ("POST", "/api/v1/keys"),
        ("POST", "/api/v1/verify"),
    ] {
        let request = || server.rest(method, path).header("sec-fetch-site", "same-origin").json(&json!({}));
        reply(request().bearer_auth(&olga)).await.refused(401, "malformed");
        let by_cookie = reply(request().header("cookie", &cookie)).await;
        if (method, path) == ("POST", "/api/v1/keys") {
            // Anybody may create a key here; the cookie gives no further rights.
            let own = by_cookie.good(201)["key"].as_str().unwrap().to_owned();
            let listed = reply(server.rest("GET", MANY).bearer_auth(&olga)).await.good(200);
            assert_eq!(listed["keys"], json!([]), "the key does not belong to the session");
            reply(server.rest("GET", path).bearer_auth(own)).await.good(200);
        } else {
            by_cookie.refused(401, "missing_credential");
        }
    }
    let mut client = server.client().await;
    assert_refused(client.verify(with(&olga, check("x"))).await, tonic::Code::PermissionDenied, "FORBIDDEN");
}

#[tokio::test]
async fn without_a_trusted_issuer_a_token_is_a_malformed_secret() {
    let provider = Provider::start();
    let server = Setup::new().ready("norrix").start();
    let olga = provider.token("dashboard", "olga", &json!({"acme": "owner"})).await;
    ask(&server, &olga).await.refused(401, "malformed");
    assert_eq!(provider.fetches(), 0);
}

/// If a request has two credentials, a proxy in front may have checked the one that Keyward does not use.
#[tokio::test]
async fn a_token_beside_another_credential_is_400() {
    let provider = Provider::start();
    let server = Setup::new().ready("all").and(&provider.table("dashboard", &["norrix"], "")).start();
    let olga = provider.token("dashboard", "olga", &json!({"acme": "owner"})).await;
    let nora = json!({"name": "n", "keyspace": "nora", "orgId": "o", "instanceId": "i", "environment": "sandbox"});
    let nora = server.create(nora).await["key"].as_str().unwrap().to_owned();
    let request = || server.rest("GET", MANY).bearer_auth(&olga);
    reply(request().bearer_auth(&olga)).await.bad(&["authorization"]);
    reply(request().bearer_auth(crate::support::server::ROOT)).await.bad(&["authorization"]);
    reply(request().header("x-api-key", &nora)).await.bad(&["authorization"]);
    // On a route without sessions, the token is ignored.
    reply(server.rest("GET", "/api/v1/keys").bearer_auth(&olga).header("x-api-key", &nora)).await.good(200);
    // A token is accepted as bearer or in a cookie, not in X-API-Key.
    reply(server.rest("GET", MANY).header("x-api-key", &olga)).await.refused(401, "malformed");
}
