//! What each gateway does with requests of one key: identity, forged headers, paths, organizations, upgrades, uploads.

use serde_json::json;

use crate::{
    gateway::{Gateway, Kind},
    raw::Connection,
    upstream::{OWN_BODY, Seen, Upstream},
    world::{CI_IDENTITY, Key, World},
};

/// What the upstream gets, and what it does not.
pub async fn identity(gateway: &Gateway, world: &World, bearer: &str) {
    let seen = Seen::of(&gateway.send("GET", "/api/build", &[("Authorization", bearer), ("X-Custom", "kept")]).await);
    // The credential is removed, and so is the gateway's own.
    let others = [("authorization", ""), ("x-keyward-gateway", ""), ("x-custom", "kept")];
    for (name, value) in CI_IDENTITY.into_iter().chain(others) {
        assert_eq!(seen.header(name), value, "{:?} {name}: {seen:?}", gateway.kind);
    }
    assert!(seen.header("x-keyward-key-id").starts_with("key_"));
    if gateway.kind != Kind::Nginx {
        // nginx cannot send a header without a value.
        assert_eq!(seen.all("x-keyward-role"), [""], "{:?}: {seen:?}", gateway.kind);
    }
    assert!(!seen.0.to_string().contains(&world.gateway));
    // What a gateway could take for one of its own variables stays text.
    let name = "{env.KEYWARD_GATEWAY_KEY} $host %[src] %PROTOCOL% X-Keyward-Role: owner";
    let scopes = ["build", "submit", "update"];
    let body = json!({"name": name, "keyspace": "norrix", "orgId": "Zoë & Co", "scopes": scopes});
    let key = world.key(body).await;
    let seen = Seen::of(&gateway.send("GET", "/api/build", &[("Authorization", &key.bearer())]).await);
    for (header, value) in [
        ("x-keyward-key-id", key.id.as_str()),
        ("x-keyward-organization", "Zo%C3%AB%20&%20Co"),
        ("x-keyward-scopes", "build submit update"),
        ("x-keyward-name", "{env.KEYWARD_GATEWAY_KEY}%20$host%20%25[src]%20%25PROTOCOL%25%20X-Keyward-Role:%20owner"),
        ("x-keyward-role", ""),
    ] {
        assert_eq!(seen.header(header), value, "{:?} {header}: {seen:?}", gateway.kind);
    }
}

/// What becomes of a request with a header that is named like one of Keyward's.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The gateway itself refuses it.
    Refused,
    /// It passes without that header, and with the key's organization.
    Cleaned,
}

/// The attack: a client sends identity headers itself, in spellings that some servers take for the same name, or has the
/// gateway's own removed by naming them in `Connection`.
pub async fn forged(gateway: &Gateway, bearer: &str) {
    use Outcome::{Cleaned, Refused};
    let kind = gateway.kind;
    // nginx and Caddy drop such names.
    let alias = |name: &str| match kind {
        Kind::Envoy if name.contains('_') => Refused,
        Kind::Traefik | Kind::Haproxy => Refused,
        Kind::Envoy | Kind::Nginx | Kind::Caddy => Cleaned,
    };
    for name in [
        "X-Keyward-Organization",
        "x-keyward-organization",
        "X-Keyward-Subject",
        "X-Keyward-Role",
        "X-Keyward-Gateway",
        "X-Keyward-Other",
        "x_keyward_organization",
        "X.Keyward.Organization",
        "X-Keyward_Organization",
        "X_Keyward_Role",
        "x_keyward_other",
    ] {
        let expected = if name.contains(['_', '.']) { alias(name) } else { Cleaned };
        assert_eq!(forge(gateway, bearer, name, &[(name, "evil")]).await, expected, "{kind:?} {name}");
        let expected = if kind == Kind::Haproxy { Refused } else { expected };
        let removed = [(name, "evil"), ("Connection", name)];
        assert_eq!(forge(gateway, bearer, name, &removed).await, expected, "{kind:?} Connection: {name}");
    }
}

async fn forge(gateway: &Gateway, bearer: &str, name: &str, headers: &[(&str, &str)]) -> Outcome {
    let headers = [&[("Authorization", bearer)], headers].concat();
    let response = gateway.send("GET", "/api/build", &headers).await;
    if response.status == 400 {
        return Outcome::Refused;
    }
    let seen = Seen::of(&response);
    for (header, value) in seen.aliases() {
        // nginx removes headers by their names only. This one is none of Keyward's.
        let passes = gateway.kind == Kind::Nginx && header == "x-keyward-other";
        assert!(passes || !value.contains("evil"), "{:?} {name} passed as {header}: {seen:?}", gateway.kind);
    }
    assert_eq!(seen.header("x-keyward-organization"), "acme", "{:?} {name}: {seen:?}", gateway.kind);
    Outcome::Cleaned
}

/// The attack: a key for builds reaches another route by a path that gateway, Keyward and upstream read differently.
pub async fn bypasses(gateway: &Gateway, upstream: &Upstream, bearer: &str) {
    let kind = gateway.kind;
    for target in [
        "/api/build/..%2fenv",
        "/api/build/..%2Fenv",
        "/api/build/%2e%2e%2fenv",
        "/api/build/..%5cenv",
        "/api/build/x%00",
        "/api/build/%zz",
        "/api/build/..%3b/env",
        "/api/build/%252e%252e/env",
        "/api/build/%c0%ae%c0%ae/env",
    ] {
        let before = upstream.requests();
        let response = gateway.send("GET", target, &[("Authorization", bearer)]).await;
        // Envoy, nginx and the libraries of the others refuse some of these before they ask.
        if response.header("x-request-id").is_some() && response.body.starts_with(b"{") {
            let message = "path: could be read in different ways; send it normalized";
            assert_eq!(response.status, 400, "{kind:?} {target}: {response:?}");
            response.refused(400, "Bad Request", message, "ambiguous_path");
        } else {
            assert!(matches!(response.status, 400 | 404), "{kind:?} {target}: {response:?}");
        }
        assert_eq!(upstream.requests(), before, "{kind:?} {target}");
    }
    // The gateway may normalize these first. Then Keyward judges what the upstream gets.
    for target in [
        "/api/build/..;/env",
        "/api/build/../env",
        "/api/build/%2e%2e/env",
        "//api/env",
        "/api//env",
        "/api/build/./../env",
        "http://api.example/api/env",
        "http://api.example/api/build/../env",
    ] {
        let before = upstream.requests();
        let response = gateway.send("GET", target, &[("Authorization", bearer)]).await;
        assert!(matches!(response.status, 301 | 307 | 308 | 400 | 403 | 404), "{kind:?} {target}: {response:?}");
        assert_eq!(upstream.requests(), before, "{kind:?} {target}");
    }
    // A client's own words about its request are not believed.
    let before = upstream.requests();
    for name in ["X-Original-URI", "X-Forwarded-Uri", "X-Original-URL", "X-Rewrite-URL", "X-Envoy-Original-Path"] {
        let response = gateway.send("GET", "/api/env", &[("Authorization", bearer), (name, "/api/build")]).await;
        assert!(matches!(response.status, 400 | 403), "{kind:?} {name}: {response:?}");
    }
    for name in ["X-Original-Method", "X-Forwarded-Method", "X-HTTP-Method-Override"] {
        let response = gateway.send("PUT", "/api/build", &[("Authorization", bearer), (name, "GET")]).await;
        assert!(matches!(response.status, 400 | 403), "{kind:?} {name}: {response:?}");
    }
    assert_eq!(upstream.requests(), before, "{kind:?}");
}

/// What the upstream answers itself reaches the client: it is no answer of Keyward's.
pub async fn own_answers(gateway: &Gateway, bearer: &str) {
    for status in [204, 400, 401, 403, 404, 429, 500, 502, 503, 504] {
        let answer = status.to_string();
        let headers = [("Authorization", bearer), ("X-Answer", answer.as_str())];
        let response = gateway.send("GET", "/api/build", &headers).await;
        let body = if status == 204 { "" } else { OWN_BODY };
        assert_eq!(
            (response.status, &response.body[..]),
            (status, body.as_bytes()),
            "{:?}: {response:?}",
            gateway.kind
        );
        for (name, value) in [("x-own", "kept"), ("retry-after", "77")] {
            assert_eq!(response.header(name), Some(value), "{:?} {status}: {response:?}", gateway.kind);
        }
    }
}

/// The identity of a key whose names and scopes are as long as they may be.
pub async fn largest(gateway: &Gateway, key: &Key, long: &str, scopes: &str) {
    let seen = Seen::of(&gateway.send("GET", "/", &[("Authorization", &key.bearer())]).await);
    for (name, expected) in [
        ("x-keyward-organization", long),
        ("x-keyward-instance", long),
        ("x-keyward-environment", long),
        ("x-keyward-scopes", scopes),
    ] {
        assert_eq!(seen.header(name), expected, "{:?} {name}", gateway.kind);
    }
}

pub async fn organizations(gateway: &Gateway, bearer: &str) {
    let headers = [("Authorization", bearer)];
    let own = gateway.send("GET", "/api/build?orgId=acme", &headers).await;
    assert_eq!(Seen::of(&own).0["target"], "/api/build?orgId=acme");
    let foreign = gateway.send("GET", "/api/build?orgId=other", &headers).await;
    foreign.refused(403, "Forbidden", "The organization is not this caller's own", "forbidden");
    let twice = gateway.send("GET", "/api/build?orgId=acme&orgId=other", &headers).await;
    twice.refused(400, "Bad Request", "orgId: must be given once", "invalid_argument");
}

/// A revoked key is refused on the next request, on a connection that it has used as well as on a new one.
pub async fn revoked(gateway: &Gateway, world: &World) {
    let key = world.norrix(&["build"]).await;
    let bearer = key.bearer();
    let mut connection = Connection::open(&gateway.address).await;
    for _ in 0..3 {
        Seen::of(&connection.send("GET", "/api/build", &[("Authorization", &bearer)]).await);
    }
    world.revoke(&key).await;
    connection.send("GET", "/api/build", &[("Authorization", &bearer)]).await.unauthorized("revoked");
    // The connection itself proves nothing, neither for nor against the next request on it.
    let other = world.norrix(&["build"]).await;
    Seen::of(&connection.send("GET", "/api/build", &[("Authorization", &other.bearer())]).await);
    connection.send("GET", "/api/build", &[]).await.unauthorized("missing_credential");
    connection.send("GET", "/api/build", &[("Authorization", &bearer)]).await.unauthorized("revoked");
    gateway.send("GET", "/api/build", &[("Authorization", &bearer)]).await.unauthorized("revoked");
}

pub async fn upgrade(gateway: &Gateway, bearer: &str) {
    let mut connection = Connection::open(&gateway.address).await;
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    connection.start("GET", "/api/build/b1/log", &[&[("Authorization", bearer)], &upgrade[..]].concat()).await;
    let response = connection.response().await;
    assert_eq!(response.status, 101, "{:?}: {response:?}", gateway.kind);
    for text in [&b"first"[..], b"second"] {
        connection.write(text).await;
        assert_eq!(connection.exactly(text.len()).await, text);
    }
    let refused = gateway.send("GET", "/api/build/b1/log", &upgrade).await;
    assert_eq!(refused.status, 401, "{:?}: {refused:?}", gateway.kind);
}

/// The upstream gets the beginning of an upload before its end is sent, and all of it.
pub async fn upload(gateway: &Gateway, upstream: &Upstream, bearer: &str) {
    const MIB: usize = 1 << 20;
    let (before, piece) = (upstream.requests(), vec![b'x'; MIB]);
    let mut connection = Connection::open(&gateway.address).await;
    let length = (100 * MIB).to_string();
    connection.start("POST", "/api/build", &[("Authorization", bearer), ("Content-Length", &length)]).await;
    connection.write(&piece).await;
    crate::support::reply::until("the upload reaches the upstream", async || {
        (upstream.requests() > before).then_some(())
    })
    .await;
    for _ in 1..100 {
        connection.write(&piece).await;
    }
    let seen = Seen::of(&connection.response().await);
    assert_eq!((&seen.0["length"], &seen.0["method"]), (&json!(100 * MIB), &json!("POST")));
}
