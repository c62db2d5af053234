//! Metrics and the log.

use crate::{raw, support::Setup, world::World};

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
    assert_eq!(ask("/api/build?token=hush", "GET").await, 200);
    assert_eq!(ask("/api/submit/s1?token=hush", "DELETE").await, 403);
    assert_eq!(ask(&format!("/nowhere/{}", key.secret), "GET").await, 403);
    assert_eq!(ask("/nowhere", &"X".repeat(1_000)).await, 403);
    world.server.logged("INSUFFICIENT_SCOPE").await;
    let log = world.server.log();
    let line = log.lines().find(|line| line.contains("INSUFFICIENT_SCOPE")).unwrap();
    for part in ["caddy", "norrix", "DELETE", "/api/submit/s1", &key.id, "203.0.113.7", "req_of_the_test"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    for part in ["hush", "6.6.6.6", &key.secret, &world.gateway, &"X".repeat(100)] {
        assert!(!log.contains(part), "{part} in {log}");
    }
    let metrics = raw::send(&world.server.http, "GET", "/metrics", &[]).await;
    let text = String::from_utf8(metrics.body).unwrap();
    for (code, count) in [("VALID", 1), ("INSUFFICIENT_SCOPE", 1), ("NO_ROUTE", 2)] {
        let line = text.lines().find(|line| {
            line.starts_with("keyward_gateway_decisions_total{")
                && line.contains("keyspace=\"norrix\"")
                && line.contains("gateway=\"caddy\"")
                && line.contains(&format!("code=\"{code}\""))
        });
        assert!(line.is_some_and(|line| line.ends_with(&format!(" {count}"))), "{code}: {line:?}");
    }
}
