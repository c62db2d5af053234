//! Creation without a credential: what it may set, and how often it may happen.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Reply, Server, Setup, reply, reply::from_now, server::ROOT};

const OWN: &str = "/api/v1/keys";
const DAY: Duration = Duration::from_hours(24);

async fn create(server: &Server, body: &Value) -> Reply {
    reply(server.rest("POST", OWN).json(body)).await
}

/// Creates a key as a client behind a proxy that sends these forwarding headers.
async fn forwarded(server: &Server, lines: &[&str]) -> Reply {
    let mut request = server.rest("POST", OWN);
    for line in lines {
        request = request.header("x-forwarded-for", *line);
    }
    reply(request).await
}

/// Returns how many of `count` creations succeed before the first 429.
async fn made_of(count: usize, mut one: impl AsyncFnMut(usize) -> Reply) -> usize {
    for at in 0..count {
        let answer = one(at).await;
        if answer.status == 429 {
            answer.refused(429, "rate_limited");
            return at;
        }
        answer.good(201);
    }
    count
}

fn behind_a_proxy() -> Server {
    Setup::new().ready("noro").and("[http]\ntrusted_proxies = [\"127.0.0.1/32\", \"10.0.0.0/8\"]").start()
}

#[tokio::test]
async fn an_anonymous_caller_may_set_webhook_name_metadata_and_a_shorter_expiry() {
    let server = Setup::new().ready("noro").start();
    for body in [
        json!({}),
        json!({"webhook": "https://e.example/h", "name": "n", "metadata": {"k": "v"}, "expiresInDays": 90}),
        json!({"expiresInDays": 1}),
        json!({"expiresAt": from_now(DAY * 89)}),
        json!({"keyspace": "noro"}),
    ] {
        create(&server, &body).await.good(201);
    }
}

/// Attack: create a key with a scope or for an organization without a credential.
#[tokio::test]
async fn an_anonymous_caller_may_not_set_scopes_or_a_binding() {
    let server = Setup::new().ready("all").start();
    for body in [
        json!({"scopes": ["admin"]}),
        json!({"scopes": ["anything"]}),
        json!({"orgId": "acme"}),
        json!({"instanceId": "i"}),
        json!({"environment": "production"}),
        json!({"rateLimit": {"limit": 1_000_000, "windowMs": 1_000}}),
        json!({"name": "n", "orgId": "acme", "scopes": ["a"]}),
    ] {
        create(&server, &body).await.refused(403, "forbidden");
    }
    let noro = create(&server, &json!({})).await.good(201);
    let request = server.rest("POST", OWN).bearer_auth(noro["key"].as_str().unwrap()).json(&json!({"orgId": "acme"}));
    reply(request).await.refused(403, "forbidden");
    let listed = reply(server.rest("GET", "/api/api-keys").bearer_auth(ROOT)).await.good(200);
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1, "what is refused makes nothing");
}

/// The default expiry is the limit: anonymous keys must not live longer.
#[tokio::test]
async fn an_anonymous_caller_may_not_exceed_the_default_expiry() {
    let server = Setup::new().ready("noro").start();
    for (body, field) in [
        (json!({"expiresInDays": 91}), "expiresInDays"),
        (json!({"expiresInDays": 3_650}), "expiresInDays"),
        (json!({"expiresAt": from_now(DAY * 91)}), "expiresAt"),
    ] {
        create(&server, &body).await.bad(&[field]);
        // An operator may.
        reply(server.rest("POST", OWN).bearer_auth(ROOT).json(&body)).await.good(201);
    }
}

/// One public keyspace does not make others public.
#[tokio::test]
async fn an_anonymous_caller_may_create_only_in_a_public_keyspace() {
    let server = Setup::new().ready("all").start();
    for keyspace in ["norrix", "nora", "keyward", "none-such"] {
        create(&server, &json!({ "keyspace": keyspace })).await.refused(401, "missing_credential");
    }
    reply(server.rest("POST", "/api/api-keys").json(&json!({"name": "n"}))).await.refused(401, "missing_credential");
}

#[tokio::test]
async fn a_caller_with_a_key_may_do_what_an_anonymous_caller_may() {
    let server = Setup::new().ready("noro").start();
    let first = create(&server, &json!({})).await.good(201);
    let second = reply(server.rest("POST", OWN).bearer_auth(first["key"].as_str().unwrap())).await.good(201);
    assert_ne!(first["key"], second["key"]);
    let path = format!("/api/api-keys/{}", second["id"].as_str().unwrap());
    let item = reply(server.rest("GET", &path).bearer_auth(ROOT)).await.good(200);
    assert_eq!(item["createdBy"], format!("key:{}", first["id"].as_str().unwrap()));
}

/// Attack: one client fills the database with keys.
#[tokio::test]
async fn the_eleventh_creation_of_one_address_within_a_minute_is_429() {
    let server = Setup::new().ready("noro").start();
    // Creations that fail for another reason are not counted.
    for _ in 0..5 {
        create(&server, &json!({"orgId": "o"})).await.refused(403, "forbidden");
        create(&server, &json!({"expiresInDays": 0})).await.bad(&["expiresInDays"]);
    }
    assert_eq!(made_of(20, async |_| create(&server, &json!({})).await).await, 10);
    let refused = create(&server, &json!({})).await;
    assert_eq!(refused.refused(429, "rate_limited"), "Rate limit exceeded");
    assert!((1..=66).contains(&refused.number("retry-after")), "{refused:?}");
    assert_eq!((refused.number("x-ratelimit-limit"), refused.number("x-ratelimit-remaining")), (10, 0));
    // Neither operators nor other addresses are limited by that.
    reply(server.rest("POST", OWN).bearer_auth(ROOT)).await.good(201);
    let elsewhere = reqwest::Client::builder().no_proxy().local_address(Some([127, 0, 0, 2].into()));
    let request = elsewhere.build().unwrap().post(format!("http://{}{OWN}", server.http));
    reply(request).await.good(201);
}

/// Attack: use one's own keys to create more of them.
#[tokio::test]
async fn a_key_does_not_lift_the_limit_of_its_address() {
    let server = Setup::new().ready("noro").start();
    let mut key = create(&server, &json!({})).await.good(201)["key"].as_str().unwrap().to_owned();
    let made = made_of(20, async |_| {
        let answer = reply(server.rest("POST", OWN).bearer_auth(&key)).await;
        if answer.status == 201 {
            key = answer.json()["key"].as_str().unwrap().to_owned();
        }
        answer
    })
    .await;
    assert_eq!(made, 9);
}

/// Attack: send another address in a header with each request.
#[tokio::test]
async fn a_forwarding_header_of_an_untrusted_peer_is_ignored() {
    let server = Setup::new().ready("noro").start();
    let made = made_of(20, async |at| forwarded(&server, &[&format!("198.51.100.{at}")]).await).await;
    assert_eq!(made, 10);
    for header in ["forwarded", "x-real-ip", "cf-connecting-ip", "true-client-ip", "x-client-ip"] {
        let request = server.rest("POST", OWN).header(header, "198.51.100.200");
        reply(request).await.refused(429, "rate_limited");
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_its_own_limit() {
    let server = behind_a_proxy();
    for client in ["198.51.100.1", "198.51.100.2"] {
        assert_eq!(made_of(20, async |_| forwarded(&server, &[client]).await).await, 10, "{client}");
    }
    assert_eq!(made_of(20, async |_| create(&server, &json!({})).await).await, 10, "the proxy's own address");
}

/// The client could have written everything left of the address that the trusted proxy saw.
#[tokio::test]
async fn behind_a_trusted_proxy_the_address_is_read_from_the_right() {
    let server = behind_a_proxy();
    let made = made_of(20, async |at| {
        let spoofed = format!("203.0.113.{at}");
        match at % 4 {
            0 => forwarded(&server, &[&format!("{spoofed}, 198.51.100.7")]).await,
            1 => forwarded(&server, &[&spoofed, "198.51.100.7"]).await,
            // Through a second trusted proxy.
            2 => forwarded(&server, &[&format!("{spoofed},198.51.100.7, 10.1.2.3")]).await,
            _ => forwarded(&server, &[&format!("garbage, {spoofed},198.51.100.7"), "10.1.2.3"]).await,
        }
    })
    .await;
    assert_eq!(made, 10);
}

/// An IPv6 client has 2^64 addresses.
#[tokio::test]
async fn the_addresses_of_one_ipv6_network_count_together() {
    let server = behind_a_proxy();
    let made = made_of(20, async |at| forwarded(&server, &[&format!("2001:db8:1:2:{at:x}::{at:x}")]).await).await;
    assert_eq!(made, 10);
    forwarded(&server, &["2001:db8:1:3::1"]).await.good(201);
}

#[tokio::test]
async fn the_limit_of_public_creation_is_configurable() {
    let server = Setup::new().ready("noro").and("[http]\npublic_create_limit = { limit = 2, window = \"1h\" }").start();
    assert_eq!(made_of(5, async |_| create(&server, &json!({})).await).await, 2);
}
