//! One table of cases over the gateways: the three products, as their documents say.

use serde_json::json;

use crate::{
    gateway::{Gateway, Kind},
    raw::{Connection, Response},
    requests::{bypasses, forged, identity, largest, organizations, own_answers, revoked, upgrade, upload},
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
    own_answers(&gateway, &build.bearer()).await;
    revoked(&gateway, &world).await;
    upgrade(&gateway, &build.bearer()).await;
    upload(&gateway, &upstream, &build.bearer()).await;
    checked.add(8);
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
    // 128 characters of four bytes each, and 64 scopes of 64 characters.
    let long = "😀".repeat(128);
    let scopes: Vec<String> = (0..64).map(|n| format!("{n:064}")).collect();
    let body = json!({
        "name": "n", "keyspace": "noro", "orgId": long, "instanceId": long, "environment": long, "scopes": scopes,
    });
    largest(&gateway, &world.key(body).await, &"%F0%9F%98%80".repeat(128), &scopes.join(" ")).await;
    println!("{kind:?}: 104 checks");
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
        let twice = gateway.send("GET", "/api/env?orgId=acme&orgId=other", headers).await;
        twice.refused(400, "Bad Request", "orgId: must be given once", "invalid_argument");
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
    println!("{kind:?}: 12 checks");
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
            async fn a_session_passes_where_a_route_allows_sessions() {
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
    haproxy Haproxy;
}
