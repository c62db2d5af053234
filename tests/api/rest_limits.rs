//! Rate limits of keys over REST: which calls are counted, and which responses have the headers.

use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use serde_json::json;

use crate::support::{
    Reply, Server, Setup, reply,
    reply::{now_ms, until},
    server::ROOT,
};

const OWN: &str = "/api/v1/keys";

/// A keyspace with all features and a rate limit.
fn limited(limit: u32, window: &str) -> Server {
    let config = format!(
        "[[keyspace]]\nname = \"x\"\nprefix = \"x_\"\nsecret = {{ encoding = \"base64url\", bytes = 32 }}\n\
         scopes = [\"use\", \"admin\"]\nadmin_scope = \"admin\"\nself_service = true\npublic_create = true\n\
         default_scopes = [\"use\"]\nrate_limit = {{ limit = {limit}, window = \"{window}\" }}\n"
    );
    Setup::new().config(&config).start()
}

async fn key(server: &Server, scope: &str) -> String {
    server.create(json!({"name": "n", "scopes": [scope]})).await["key"].as_str().unwrap().to_owned()
}

fn rate(reply: &Reply) -> (i64, i64) {
    let reset = reply.number("x-ratelimit-reset");
    assert!(reset >= now_ms() - 5_000, "{reply:?}");
    (reply.number("x-ratelimit-limit"), reply.number("x-ratelimit-remaining"))
}

fn no_rate(reply: &Reply) -> bool {
    ["limit", "remaining", "reset"].iter().all(|name| reply.header(&format!("x-ratelimit-{name}")).is_none())
}

#[tokio::test]
async fn every_response_to_a_limited_key_shows_its_limit_and_is_counted() {
    let server = limited(100, "60s");
    let (admin, plain) = (key(&server, "admin").await, key(&server, "use").await);
    let json =
        |request: RequestBuilder, body: &str| request.header("content-type", "application/json").body(body.to_owned());
    let calls = [
        (200, server.rest("GET", OWN)),
        (201, server.rest("POST", OWN)),
        (400, json(server.rest("POST", OWN), "{\"nonsense\":1}")),
        (413, json(server.rest("POST", OWN), &" ".repeat(2 << 20))),
        (415, server.rest("POST", OWN).body("x")),
        (200, json(server.rest("PATCH", OWN), "{\"webhook\":\"\"}")),
        (400, json(server.rest("PATCH", OWN), "{")),
        (200, server.rest("GET", "/api/api-keys")),
        (400, server.rest("GET", "/api/api-keys?limit=x")),
        (403, server.rest("GET", "/api/api-keys?orgId=other")),
        (404, server.rest("GET", "/api/api-keys/none")),
        (404, server.rest("DELETE", "/api/api-keys/none")),
        (403, json(server.rest("POST", "/api/v1/verify"), "{\"secret\":\"x\"}")),
    ];
    for (index, (status, request)) in calls.into_iter().enumerate() {
        let answer = reply(request.bearer_auth(&admin)).await;
        assert_eq!(answer.status, status, "call {index}: {answer:?}");
        assert_eq!(rate(&answer), (100, 99 - i64::try_from(index).unwrap()), "call {index}");
    }
    let refused = reply(server.rest("GET", "/api/api-keys").bearer_auth(&plain)).await;
    refused.refused(403, "insufficient_scope");
    assert_eq!(rate(&refused), (100, 99));
}

#[tokio::test]
async fn responses_to_other_callers_show_no_limit() {
    let server = limited(5, "60s");
    let plain = key(&server, "use").await;
    assert!(no_rate(&reply(server.rest("GET", OWN)).await));
    assert!(no_rate(&reply(server.rest("GET", OWN).bearer_auth("x_nonsense")).await));
    assert!(no_rate(&reply(server.rest("GET", "/api/api-keys").bearer_auth(ROOT)).await));
    assert!(no_rate(&reply(server.rest("GET", "/nothing").bearer_auth(&plain)).await));
    assert!(no_rate(&reply(server.rest("GET", "/healthz").bearer_auth(&plain)).await));
    reply(server.rest("DELETE", OWN).bearer_auth(&plain)).await.good(200);
    let revoked = reply(server.rest("GET", OWN).bearer_auth(&plain)).await;
    revoked.refused(401, "revoked");
    assert!(no_rate(&revoked));
    // A keyspace without a rate limit.
    let server = Setup::new().start();
    let key = server.create(json!({"name": "n"})).await["key"].as_str().unwrap().to_owned();
    assert!(no_rate(&reply(server.rest("GET", OWN).bearer_auth(key)).await));
}

#[tokio::test]
async fn past_the_limit_every_route_is_429_except_the_keys_own_revocation() {
    let server = limited(3, "60s");
    let admin = key(&server, "admin").await;
    for left in [2, 1, 0] {
        assert_eq!(rate(&reply(server.rest("GET", OWN).bearer_auth(&admin)).await), (3, left));
    }
    for (method, path) in [
        ("GET", OWN),
        ("PATCH", OWN),
        ("POST", OWN),
        ("GET", "/api/api-keys"),
        ("POST", "/api/api-keys"),
        ("GET", "/api/api-keys/none"),
        ("POST", "/api/v1/verify"),
    ] {
        let refused = reply(server.rest(method, path).bearer_auth(&admin)).await;
        assert_eq!(refused.refused(429, "rate_limited"), "Rate limit exceeded");
        assert_eq!(rate(&refused), (3, 0));
        let wait = refused.number("retry-after");
        assert!((1..=65).contains(&wait), "{refused:?}");
        // `remaining` grows before or when the next call is admitted.
        assert!(refused.number("x-ratelimit-reset") <= now_ms() + wait * 1_000);
    }
    for _ in 0..2 {
        let ended = reply(server.rest("DELETE", OWN).bearer_auth(&admin)).await;
        assert_eq!(ended.good(200), json!({"revoked": true}));
        assert_eq!(rate(&ended), (3, 0));
    }
}

/// A key's own revocation neither needs nor spends the limit.
#[tokio::test]
async fn a_refused_own_revocation_is_not_counted_either() {
    let server = Setup::new().ready("noro").and("[http]\nenvironment = \"production\"").start();
    let key = reply(server.rest("POST", OWN)).await.good(201)["key"].as_str().unwrap().to_owned();
    assert_eq!(rate(&reply(server.rest("GET", OWN).bearer_auth(&key)).await), (100, 99));
    assert_eq!(rate(&reply(server.rest("DELETE", OWN).bearer_auth(&key)).await), (100, 99));
    let config = "[[keyspace]]\nname = \"x\"\nprefix = \"x_\"\nsecret = { encoding = \"base64url\", bytes = 32 }\n\
                  rate_limit = { limit = 5, window = \"60s\" }\n";
    let server = Setup::new().config(config).start();
    let key = server.create(json!({"name": "n"})).await["key"].as_str().unwrap().to_owned();
    for _ in 0..8 {
        let refused = reply(server.rest("DELETE", OWN).bearer_auth(&key)).await;
        refused.refused(403, "forbidden");
        assert_eq!(rate(&refused), (5, 5));
    }
}

#[tokio::test]
async fn a_call_after_retry_after_is_admitted() {
    let server = limited(2, "1s");
    let key = key(&server, "use").await;
    let (start, mut calls) = (Instant::now(), 0);
    let refused = until("a call past the limit", async || {
        calls += 1;
        Some(reply(server.rest("GET", OWN).bearer_auth(&key)).await).filter(|call| call.status != 200)
    })
    .await;
    // The third call, unless the machine was so slow that the calls fell into several windows.
    assert!(calls == 3 || calls > 3 && start.elapsed() >= Duration::from_secs(1), "{calls}");
    refused.refused(429, "rate_limited");
    let wait = Duration::from_secs(u64::try_from(refused.number("retry-after")).unwrap());
    assert!(wait <= Duration::from_secs(2), "{wait:?}");
    let start = Instant::now();
    while start.elapsed() < wait {
        tokio::time::sleep(wait.saturating_sub(start.elapsed())).await;
    }
    reply(server.rest("GET", OWN).bearer_auth(&key)).await.good(200);
}

/// Calls over REST and Verify spend the same limit.
#[tokio::test]
async fn a_key_has_one_limit_for_all_of_its_uses() {
    let server = limited(4, "60s");
    let key = key(&server, "use").await;
    let verify = async |cost: u32| {
        let body = json!({"secret": key, "cost": cost});
        reply(server.rest("POST", "/api/v1/verify").bearer_auth(ROOT).json(&body)).await.good(200)
    };
    assert_eq!(verify(2).await["rateLimit"]["remaining"], 2);
    assert_eq!(rate(&reply(server.rest("GET", OWN).bearer_auth(&key)).await), (4, 1));
    assert_eq!(verify(2).await["code"], "RATE_LIMITED");
    assert_eq!(verify(0).await["rateLimit"]["remaining"], 1);
    assert_eq!(verify(1).await["code"], "VALID");
    reply(server.rest("GET", OWN).bearer_auth(&key)).await.refused(429, "rate_limited");
}
