//! Metrics and the log.

use std::time::{Duration, Instant};

use crate::{
    check,
    gateway::{Gateway, Kind},
    raw,
    support::{Setup, ext_authz::request, reply::within},
    upstream::{Seen, Upstream},
    world::World,
};

/// A secret in a query. It has a character that no id has: a random id of the log could hold a shorter word by chance.
const QUERY_SECRET: &str = "hush-hush";

/// How many decisions of a kind of gateway about keys of Norrix were counted with this code.
async fn counted(world: &World, gateway: &str, code: &str) -> u64 {
    let metrics = raw::send(&world.server.http, "GET", "/metrics", &[]).await;
    let text = String::from_utf8(metrics.body).unwrap();
    let mut lines = text.lines().filter(|line| {
        line.starts_with("keyward_gateway_decisions_total{")
            && line.contains("keyspace=\"norrix\"")
            && line.contains(&format!("gateway=\"{gateway}\""))
            && line.contains(&format!("code=\"{code}\""))
    });
    let value = lines.next().map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap());
    assert_eq!(lines.next(), None);
    value
}

#[tokio::test]
async fn decisions_are_counted_and_refusals_logged_without_the_query_or_a_secret() {
    let world = World::of(Setup::new().ready("all"), None).await;
    let key = world.norrix(&["build"]).await;
    let bearer = key.bearer();
    let ask = async |target: &str, method: &str| {
        let about = [
            ("Authorization", bearer.as_str()),
            ("X-Forwarded-Uri", target),
            ("X-Forwarded-Method", method),
            ("X-Forwarded-For", "6.6.6.6, 203.0.113.7"),
            ("X-Request-Id", "req_of_the_test"),
        ];
        world.ask("caddy/norrix", &about).await.status
    };
    assert_eq!(ask(&format!("/api/build?token={QUERY_SECRET}"), "GET").await, 200);
    assert_eq!(ask(&format!("/api/submit/s1?token={QUERY_SECRET}"), "DELETE").await, 403);
    assert_eq!(ask(&format!("/nowhere/{}", key.secret), "GET").await, 403);
    assert_eq!(ask("/nowhere", &"X".repeat(1_000)).await, 403);
    world.server.logged("INSUFFICIENT_SCOPE").await;
    let log = world.server.log();
    let line = log.lines().find(|line| line.contains("INSUFFICIENT_SCOPE")).unwrap();
    for part in ["caddy", "norrix", "DELETE", "/api/submit/s1", &key.id, "203.0.113.7", "req_of_the_test"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    for part in [QUERY_SECRET, "6.6.6.6", &key.secret, &world.gateway, &"X".repeat(100)] {
        assert!(!log.contains(part), "{part} in {log}");
    }
    for (code, count) in [("VALID", 1), ("INSUFFICIENT_SCOPE", 1), ("NO_ROUTE", 2)] {
        assert_eq!(counted(&world, "caddy", code).await, count, "{code}");
    }
}

/// A gateway gives up on a decision after this time. HAProxy then asks again, and the request is decided twice.
const GATEWAY_TIMEOUT: Duration = Duration::from_secs(2);

/// The line of a refusal has the client's address as the gateway knows it, not as the client claims it.
#[tokio::test]
async fn the_log_and_the_metrics_name_the_gateway_and_the_client_behind_it() {
    let upstream = Upstream::start().await;
    for kind in Kind::ALL {
        within(GATEWAY_TIMEOUT, "two decisions", async || two_decisions(kind, &upstream).await).await;
    }
}

/// One request passes and one is refused; the time of both. Log and metrics are compared if no gateway gave up meanwhile.
async fn two_decisions(kind: Kind, upstream: &Upstream) -> Duration {
    let world = World::new().await;
    let key = world.norrix(&["build"]).await;
    let bearer = key.bearer();
    let gateway = Gateway::start(kind, &world, upstream, "norrix").await;
    let name = kind.name();
    let headers = [
        ("Authorization", bearer.as_str()),
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Real-IP", "6.6.6.6"),
        ("Forwarded", "for=6.6.6.6"),
        ("X-Envoy-External-Address", "6.6.6.6"),
    ];
    let target = format!("/api/submit/{name}");
    let start = Instant::now();
    let passed = gateway.send("GET", "/api/build", &headers).await;
    let refused = gateway.send("DELETE", &format!("{target}?token={QUERY_SECRET}"), &headers).await;
    let took = start.elapsed();
    if took >= GATEWAY_TIMEOUT {
        return took;
    }
    Seen::of(&passed);
    assert_eq!(refused.status, 403, "{kind:?}: {refused:?}");
    let request = refused.header("x-request-id").unwrap();
    world.server.logged(&target).await;
    let log = world.server.log();
    let line = log.lines().find(|line| line.contains(&target)).unwrap();
    for part in [
        format!("gateway={name}"),
        format!("key={}", key.id),
        "client=127.0.0.1".to_owned(),
        format!("request={request}"),
    ] {
        assert!(line.replace('"', "").contains(&part), "{part} in {line}");
    }
    for part in ["keyspace=norrix", "outcome=INSUFFICIENT_SCOPE", "method=DELETE"] {
        assert!(line.replace('"', "").contains(part), "{part} in {line}");
    }
    assert!(!log.contains(QUERY_SECRET) && !log.contains("6.6.6.6"), "{log}");
    assert_eq!(counted(&world, name, "VALID").await, 1, "{kind:?}");
    assert_eq!(counted(&world, name, "INSUFFICIENT_SCOPE").await, 1, "{kind:?}");
    // Its start was seen by requests without a credential.
    assert!(counted(&world, name, "MISSING_CREDENTIAL").await >= 1, "{kind:?}");
    took
}

/// A decision that memory makes at once is counted and logged like one that takes longer.
#[tokio::test]
async fn a_decision_of_memory_is_counted_and_logged_too() {
    let world = World::new().await;
    let key = world.norrix(&["build"]).await;
    let bearer = key.bearer();
    let ask = async |target: &str, credential: &str| {
        let about = request("GET", target, &[("authorization", credential)], &[("keyspace", "norrix")]);
        check::ask(&world, about).await
    };
    for passed in 1..=5 {
        ask(&format!("/api/build?token={QUERY_SECRET}"), &bearer).await;
        assert_eq!(counted(&world, "envoy", "VALID").await, passed);
    }
    world.revoke(&key).await;
    for refused in 1..=5 {
        ask(&format!("/api/build/{refused}?token={QUERY_SECRET}"), &bearer).await;
        assert_eq!(counted(&world, "envoy", "REVOKED").await, refused);
        world.server.logged(&format!("/api/build/{refused}")).await;
    }
    let log = world.server.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("REVOKED")).collect();
    assert_eq!(lines.len(), 5, "{log}");
    assert!(lines.iter().all(|line| line.contains(&key.id) && line.contains("203.0.113.7")), "{lines:?}");
    assert!(!log.contains(QUERY_SECRET) && !log.contains(&key.secret), "{log}");
}

/// The attack: a client sends garbage until the gateway that asks for it is taken for the attacker.
#[tokio::test]
async fn invalid_credentials_of_clients_do_not_count_against_their_gateway() {
    let limit = "[server]\nfailed_authentications = { limit = 5, window = \"1h\" }\n";
    let world = World::of(Setup::new().ready("all").and(limit), None).await;
    let key = world.norrix(&["build"]).await;
    let garbage = [("authorization", "Bearer garbage")];
    let mut connection = raw::Connection::open(&world.server.http).await;
    for _ in 0..50 {
        let about = [
            ("X-Keyward-Gateway", world.gateway.as_str()),
            ("Authorization", "Bearer garbage"),
            ("X-Original-URI", "/api/build"),
            ("X-Original-Method", "GET"),
        ];
        let response = connection.send("GET", "/forward-auth/nginx/norrix", &about).await;
        response.unauthorized("malformed");
        assert_eq!(response.header("connection"), None);
        let response = check::ask(&world, request("GET", "/api/build", &garbage, &[("keyspace", "norrix")])).await;
        assert_eq!(check::refused(&response), (401, "malformed".to_owned()));
    }
    // The gateway's own are counted.
    for _ in 0..20 {
        let response = raw::send(
            &world.server.http,
            "GET",
            "/forward-auth/nginx/norrix",
            &[("X-Keyward-Gateway", "garbage"), ("X-Original-URI", "/api/build"), ("X-Original-Method", "GET")],
        )
        .await;
        response.refused(403, "Forbidden", "Only gateways may ask here", "forbidden");
    }
    let metrics = raw::send(&world.server.http, "GET", "/metrics", &[]).await;
    let text = String::from_utf8(metrics.body).unwrap();
    let counted = text.lines().filter(|line| line.starts_with("keyward_failed_authentications_total"));
    let sum: u64 = counted.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum();
    assert_eq!(sum, 20, "{text}");
    let about = [("Authorization", key.bearer()), ("X-Original-URI", "/api/build".to_owned())];
    let about = about.iter().map(|(name, value)| (*name, value.as_str())).chain([("X-Original-Method", "GET")]);
    assert_eq!(world.ask("nginx/norrix", &about.collect::<Vec<_>>()).await.status, 200);
}
