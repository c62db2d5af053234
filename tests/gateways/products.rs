//! One table of cases over the gateways: the three products, as their documents say.

use serde_json::json;

use crate::{
    gateway::{Gateway, Kind},
    raw::{Connection, Response},
    upstream::{Seen, Upstream},
    world::World,
};

/// Norrix's whole scope table: method, path, and the scope that passes; none where no route is.
const NORRIX: [(&str, &str, Option<&str>); 40] = [
    ("GET", "/api/build", Some("build")),
    ("POST", "/api/build", Some("build")),
    ("DELETE", "/api/build", Some("build")),
    ("GET", "/api/build/b1", Some("build")),
    ("POST", "/api/build/b1/retry", Some("build")),
    ("DELETE", "/api/build/b1", Some("build")),
    ("GET", "/api/build/b1/artifacts/app.ipa?download=1", Some("build")),
    ("GET", "/api/%62uild/b1", Some("build")),
    ("PUT", "/api/build", None),
    ("PATCH", "/api/build/b1", None),
    ("GET", "/api/submit", Some("submit")),
    ("POST", "/api/submit", Some("submit")),
    ("DELETE", "/api/submit", Some("submit")),
    ("GET", "/api/submit/s1", Some("submit")),
    ("POST", "/api/submit/s1", Some("submit")),
    ("DELETE", "/api/submit/s1", Some("submit")),
    ("PUT", "/api/submit", None),
    ("POST", "/api/update", Some("update")),
    ("GET", "/api/update/u1", Some("update")),
    ("GET", "/api/update/u1/status", Some("update")),
    ("GET", "/api/update", None),
    ("POST", "/api/update/u1", None),
    ("DELETE", "/api/update", None),
    ("GET", "/api/env", Some("admin")),
    ("POST", "/api/env", Some("admin")),
    ("PUT", "/api/env/NAME", Some("admin")),
    ("DELETE", "/api/env/NAME", Some("admin")),
    ("GET", "/api/api-keys", Some("admin")),
    ("POST", "/api/api-keys", Some("admin")),
    ("DELETE", "/api/api-keys/key_1", Some("admin")),
    ("GET", "/api/webhooks", Some("admin")),
    ("POST", "/api/webhooks", Some("admin")),
    ("DELETE", "/api/webhooks/w1", Some("admin")),
    ("GET", "/api/other", None),
    ("GET", "/api", None),
    ("GET", "/", None),
    ("GET", "/api/builds", None),
    ("GET", "/API/build", None),
    ("GET", "/api/env;x=1", None),
    ("POST", "/api/update/", None),
];

const SCOPES: [&str; 4] = ["build", "submit", "update", "admin"];

/// Checks of a real gateway, counted for its report.
struct Checked {
    kind: Kind,
    count: usize,
}

impl Checked {
    fn add(&mut self, count: usize) {
        self.count += count;
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        println!("{:?}: {} checks", self.kind, self.count);
    }
}

#[track_caller]
fn insufficient(response: &Response, scope: &str) {
    let message = format!("API key does not have '{scope}' scope");
    response.refused(403, "Forbidden", &message, "insufficient_scope");
}

#[track_caller]
fn no_route(response: &Response) {
    response.refused(403, "Forbidden", "No route allows this request", "no_route");
}

async fn norrix(kind: Kind) {
    let world = World::new().await;
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(kind, &world, &upstream, "norrix").await;
    let mut checked = Checked { kind, count: 0 };
    let mut keys = Vec::new();
    for scope in SCOPES {
        keys.push((scope, world.norrix(&[scope]).await));
    }
    for (method, target, needed) in NORRIX {
        for (scope, key) in &keys {
            let response = gateway.send(method, target, &[("Authorization", &key.bearer())]).await;
            match needed {
                Some(needed) if needed == *scope => {
                    let seen = Seen::of(&response);
                    assert_eq!(seen.0["method"], method);
                    // Envoy decodes letters that are encoded for no reason itself.
                    assert_eq!(seen.0["target"].as_str().unwrap().replace("%62", "b"), target.replace("%62", "b"));
                }
                Some(needed) => insufficient(&response, needed),
                None => no_route(&response),
            }
            checked.add(1);
        }
        // Without a credential nothing passes, and nobody learns which routes there are.
        gateway.send(method, target, &[]).await.unauthorized("missing_credential");
        checked.add(1);
    }
    let (_, build) = &keys[0];
    identity(&gateway, &world, &build.bearer()).await;
    forged(&gateway, &build.bearer()).await;
    bypasses(&gateway, &upstream, &build.bearer()).await;
    organizations(&gateway, &build.bearer()).await;
    revoked(&gateway, &world).await;
    upgrade(&gateway, &build.bearer()).await;
    upload(&gateway, &upstream, &build.bearer()).await;
    checked.add(6);
}

/// What the upstream gets, and what it does not.
async fn identity(gateway: &Gateway, world: &World, bearer: &str) {
    let seen = Seen::of(&gateway.send("GET", "/api/build", &[("Authorization", bearer), ("X-Custom", "kept")]).await);
    for (name, value) in [
        ("x-keyward-keyspace", "norrix"),
        ("x-keyward-organization", "acme"),
        ("x-keyward-instance", ""),
        ("x-keyward-environment", ""),
        ("x-keyward-scopes", "build"),
        ("x-keyward-name", "CI%20of%20A"),
        ("x-keyward-subject", ""),
        ("x-keyward-role", ""),
        // The credential is removed, and the gateway's own never gets so far.
        ("authorization", ""),
        ("x-keyward-gateway", ""),
        ("x-custom", "kept"),
    ] {
        assert_eq!(seen.header(name), value, "{:?} {name}: {seen:?}", gateway.kind);
    }
    assert!(seen.header("x-keyward-key-id").starts_with("key_"));
    if gateway.kind != Kind::Nginx {
        // nginx cannot send a header without a value.
        assert_eq!(seen.all("x-keyward-role"), [""], "{:?}: {seen:?}", gateway.kind);
    }
    assert!(!seen.0.to_string().contains(&world.gateway));
}

/// The attack: a client sends identity headers itself, in spellings that some servers take for the same name.
async fn forged(gateway: &Gateway, bearer: &str) {
    let names = [
        "X-Keyward-Organization",
        "x-keyward-organization",
        "x_keyward_organization",
        "X.Keyward.Organization",
        "X-Keyward_Organization",
        "X-Keyward-Subject",
        "X-Keyward-Role",
        "X_Keyward_Role",
        "X-Keyward-Gateway",
        "X-Keyward-Other",
        "x_keyward_other",
    ];
    for name in names {
        for connection in [None, Some(("Connection", name))] {
            let own = [("Authorization", bearer), (name, "evil")];
            let headers: Vec<_> = own.into_iter().chain(connection).collect();
            let response = gateway.send("GET", "/api/build", &headers).await;
            // Refused by the gateway itself, or not passed on.
            if response.status == 400 {
                continue;
            }
            let seen = Seen::of(&response);
            for (header, value) in seen.aliases() {
                // nginx removes headers by their names only. This one is none of Keyward's.
                if gateway.kind == Kind::Nginx && header == "x-keyward-other" {
                    continue;
                }
                assert!(!value.contains("evil"), "{:?} {name} passed as {header}: {seen:?}", gateway.kind);
            }
            let organization = seen.header("x-keyward-organization");
            assert!(matches!(organization, "acme" | ""), "{:?} {name}: {seen:?}", gateway.kind);
            assert!(connection.is_some() || organization == "acme", "{:?} {name}: {seen:?}", gateway.kind);
        }
    }
}

/// The attack: a key for builds reaches another route by a path that gateway, Keyward and upstream read differently.
async fn bypasses(gateway: &Gateway, upstream: &Upstream, bearer: &str) {
    for target in [
        "/api/build/..%2fenv",
        "/api/build/..%2Fenv",
        "/api/build/%2e%2e%2fenv",
        "/api/build/..%5cenv",
        "/api/build/x%00",
        "/api/build/%zz",
        "/api/build/..;/env",
        "/api/build/%252e%252e/env",
        "/api/build/%c0%ae%c0%ae/env",
    ] {
        let before = upstream.requests();
        let response = gateway.send("GET", target, &[("Authorization", bearer)]).await;
        assert!(matches!(response.status, 400 | 403 | 404), "{:?} {target}: {response:?}", gateway.kind);
        assert_eq!(upstream.requests(), before, "{:?} {target}", gateway.kind);
    }
    // The gateway may normalize these first. Then Keyward judges what the upstream gets.
    for target in ["/api/build/../env", "/api/build/%2e%2e/env", "//api/env", "/api//env", "/api/build/./../env"] {
        let response = gateway.send("GET", target, &[("Authorization", bearer)]).await;
        assert!(
            matches!(response.status, 301 | 307 | 308 | 400 | 403 | 404),
            "{:?} {target}: {response:?}",
            gateway.kind
        );
    }
    // A client's own words about its request are not believed.
    for name in ["X-Original-URI", "X-Forwarded-Uri", "X-Original-URL", "X-Rewrite-URL", "X-Envoy-Original-Path"] {
        let response = gateway.send("GET", "/api/env", &[("Authorization", bearer), (name, "/api/build")]).await;
        assert!(matches!(response.status, 400 | 403), "{:?} {name}: {response:?}", gateway.kind);
    }
    for name in ["X-Original-Method", "X-Forwarded-Method", "X-HTTP-Method-Override"] {
        let response = gateway.send("PUT", "/api/build", &[("Authorization", bearer), (name, "GET")]).await;
        assert!(matches!(response.status, 400 | 403), "{:?} {name}: {response:?}", gateway.kind);
    }
}

async fn organizations(gateway: &Gateway, bearer: &str) {
    let headers = [("Authorization", bearer)];
    let own = gateway.send("GET", "/api/build?orgId=acme", &headers).await;
    assert_eq!(Seen::of(&own).0["target"], "/api/build?orgId=acme");
    let foreign = gateway.send("GET", "/api/build?orgId=other", &headers).await;
    foreign.refused(403, "Forbidden", "The organization is not this caller's own", "forbidden");
    let twice = gateway.send("GET", "/api/build?orgId=acme&orgId=other", &headers).await;
    twice.refused(400, "Bad Request", "orgId: must be given once", "invalid_argument");
}

/// A revoked key is refused on the next request, on a connection that it has used as well as on a new one.
async fn revoked(gateway: &Gateway, world: &World) {
    let key = world.norrix(&["build"]).await;
    let bearer = key.bearer();
    let mut connection = Connection::open(&gateway.address).await;
    for _ in 0..3 {
        Seen::of(&connection.send("GET", "/api/build", &[("Authorization", &bearer)]).await);
    }
    world.revoke(&key).await;
    connection.send("GET", "/api/build", &[("Authorization", &bearer)]).await.unauthorized("revoked");
    gateway.send("GET", "/api/build", &[("Authorization", &bearer)]).await.unauthorized("revoked");
}

async fn upgrade(gateway: &Gateway, bearer: &str) {
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
async fn upload(gateway: &Gateway, upstream: &Upstream, bearer: &str) {
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

async fn noro(kind: Kind) {
    let world = World::new().await;
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(kind, &world, &upstream, "noro").await;
    let key = world.noro().await;
    let bearer = key.bearer();
    let mut connection = Connection::open(&gateway.address).await;
    // A content type with no body is fine.
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    for spent in 1..=100 {
        let response = connection.send("GET", "/api/v1/secrets/abc123", &headers).await;
        let seen = Seen::of(&response);
        assert_eq!(seen.header("content-type"), "application/json");
        // Traefik passes nothing but cookies from an answer that lets a request pass.
        if kind != Kind::Traefik {
            assert_eq!(response.header("x-ratelimit-limit"), Some("100"), "{kind:?}: {response:?}");
            assert_eq!(response.header("x-ratelimit-remaining"), Some((100 - spent).to_string().as_str()), "{kind:?}");
            assert!(response.header("x-ratelimit-reset").is_some(), "{kind:?}");
            assert!(response.header("x-request-id").is_some(), "{kind:?}");
        }
    }
    let requests = upstream.requests();
    let refused = connection.send("GET", "/api/v1/secrets/abc123", &headers).await;
    refused.refused(429, "Too Many Requests", "Rate limit exceeded", "rate_limited");
    assert_eq!(refused.header("x-ratelimit-limit"), Some("100"), "{kind:?}: {refused:?}");
    assert_eq!(refused.header("x-ratelimit-remaining"), Some("0"), "{kind:?}");
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() <= 65, "{kind:?}: {refused:?}");
    assert_eq!(upstream.requests(), requests);
    // Another key, of any path: it only has to be live.
    let other = world.noro().await;
    Seen::of(&gateway.send("PUT", "/any/thing//at/../all?x=1", &[("Authorization", &other.bearer())]).await);
    let norrix = world.norrix(&["admin"]).await;
    gateway
        .send("GET", "/api/v1/secrets/abc123", &[("Authorization", &norrix.bearer())])
        .await
        .unauthorized("not_found");
    println!("{kind:?}: 103 checks");
}

async fn nora(kind: Kind) {
    let world = World::new().await;
    let upstream = Upstream::start().await;
    let (sandbox, production) = (world.nora("sandbox").await, world.nora("production").await);
    let noro = world.noro().await;
    for (environment, own, other) in [("production", &production, &sandbox), ("sandbox", &sandbox, &production)] {
        let gateway = Gateway::start(kind, &world, &upstream, &format!("nora/{environment}")).await;
        let seen = Seen::of(&gateway.send("GET", "/v2/payments", &[("X-API-Key", &own.secret)]).await);
        for (name, value) in [
            ("x-keyward-organization", "acme"),
            ("x-keyward-instance", "eu-1"),
            ("x-keyward-environment", environment),
            // Removed by the gateway's own configuration, or on Envoy if the keyspace says so.
            ("x-api-key", if kind == Kind::Envoy { &own.secret } else { "" }),
        ] {
            assert_eq!(seen.header(name), value, "{kind:?}: {seen:?}");
        }
        gateway.send("GET", "/v2/payments", &[("X-API-Key", &other.secret)]).await.unauthorized("wrong_environment");
        // Beside the key nothing else counts, and none of it is a credential by itself.
        let noro = noro.bearer();
        let as_bearer = format!("Bearer {}", own.secret);
        let beside = [
            ("Authorization", "Bearer garbage"),
            ("Authorization", noro.as_str()),
            ("Authorization", &as_bearer),
            ("Cookie", "session=x; norrix_session=y"),
            ("cp-org-id", "other"),
            ("cp-instance-id", "other"),
        ];
        for header in beside {
            let seen = Seen::of(&gateway.send("GET", "/v2/payments", &[("X-API-Key", &own.secret), header]).await);
            assert_eq!(seen.header("x-keyward-organization"), "acme", "{kind:?} {header:?}");
            gateway.send("GET", "/v2/payments", &[header]).await.unauthorized("missing_credential");
        }
    }
    println!("{kind:?}: 28 checks");
}

async fn sessions(kind: Kind) {
    let world = World::with_sessions().await;
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(kind, &world, &upstream, "norrix").await;
    let token = world.token(&json!({"acme": "owner"})).await;
    let bearer = format!("Bearer {token}");
    let cookie = format!("theme=dark; norrix_session={token}");
    let credentials: [&[(&str, &str)]; 2] = [&[("Authorization", &bearer)], &[("Cookie", &cookie)]];
    for headers in credentials {
        let seen = Seen::of(&gateway.send("GET", "/api/env", headers).await);
        for (name, value) in [
            ("x-keyward-subject", "olga"),
            ("x-keyward-role", "owner"),
            ("x-keyward-organization", "acme"),
            ("x-keyward-key-id", ""),
        ] {
            assert_eq!(seen.header(name), value, "{kind:?}: {seen:?}");
        }
        let foreign = gateway.send("GET", "/api/env?orgId=other", headers).await;
        foreign.refused(403, "Forbidden", "The organization is not this caller's own", "forbidden");
    }
    gateway.send("GET", "/api/build", &[("Authorization", &bearer)]).await.unauthorized("malformed");
    gateway.send("GET", "/api/build", &[("Cookie", &cookie)]).await.unauthorized("missing_credential");
    // A page of another site cannot use its visitor's cookie.
    let origins: [(&[(&str, &str)], bool); 4] = [
        (&[], false),
        (&[("Origin", "https://evil.example")], false),
        (&[("Origin", "https://api.example")], true),
        (&[("Sec-Fetch-Site", "cross-site")], false),
    ];
    for (headers, passes) in origins {
        let response = gateway.send("POST", "/api/env", &[&[("Cookie", cookie.as_str())], headers].concat()).await;
        assert_eq!(response.status, if passes { 200 } else { 403 }, "{kind:?} {headers:?}: {response:?}");
    }
    println!("{kind:?}: 10 checks");
}

/// Makes the cases tests of each gateway.
macro_rules! each_gateway {
    ($($name:ident $kind:ident;)*) => {$(
        mod $name {
            use crate::gateway::Kind;

            #[tokio::test]
            async fn norrix_has_its_scope_table() {
                super::norrix(Kind::$kind).await;
            }

            #[tokio::test]
            async fn noro_has_100_calls_a_minute() {
                super::noro(Kind::$kind).await;
            }

            #[tokio::test]
            async fn nora_has_two_environments_and_one_header() {
                super::nora(Kind::$kind).await;
            }

            #[tokio::test]
            async fn a_session_passes_where_a_route_says_so() {
                super::sessions(Kind::$kind).await;
            }
        }
    )*};
}

each_gateway! {
    envoy Envoy;
    nginx Nginx;
    caddy Caddy;
    traefik Traefik;
}
