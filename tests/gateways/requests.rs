//! What each gateway does with requests of one key: identity, forged headers, paths, organizations, upgrades, uploads.

use serde_json::json;

use crate::{
    gateway::{Gateway, Kind},
    raw::Connection,
    upstream::{Seen, Upstream},
    world::World,
};

/// What the upstream gets, and what it does not.
pub async fn identity(gateway: &Gateway, world: &World, bearer: &str) {
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
pub async fn forged(gateway: &Gateway, bearer: &str) {
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
pub async fn bypasses(gateway: &Gateway, upstream: &Upstream, bearer: &str) {
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
