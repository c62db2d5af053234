//! Noro, "API / Authentication".
//!
//! | statement | test |
//! |---|---|
//! | keys are `noro_` and 32 alphanumeric characters | `an_empty_post_creates_a_key_of_the_documented_form` |
//! | `curl -X POST …/api/v1/keys` answers `key` and `expires` | the same |
//! | optionally, include a webhook URL | `a_key_can_be_created_with_a_webhook` |
//! | keys expire after 90 days; `expires` is a unix timestamp in milliseconds | `a_key_expires_after_ninety_days_in_unix_milliseconds` |
//! | check your key's expiration date | `a_key_can_read_its_own_expiration` |
//! | generate a new key before expiration | `a_new_key_can_be_created_while_the_old_one_works` |
//! | an expired key no longer works | `an_expired_key_is_refused` |
//! | delete your API key | `a_deleted_key_is_invalid_at_once` |
//! | change the webhook URL; empty removes it | `a_webhook_is_changed_and_removed` |
//! | `Authorization` header with the Bearer scheme | `only_the_bearer_scheme_carries_a_key` |
//! | 100 requests a minute for each key, then 429 | `the_hundred_and_first_request_of_a_minute_is_429` |
//! | sliding window | `the_window_slides_instead_of_restarting` |
//! | responses include the rate limit headers and a request id | `answers_carry_the_rate_limit_and_a_request_id` |
//! | use separate keys for different environments | `two_keys_have_nothing_in_common` |
//! | the webhook receives notifications; change it and they go to the new one; set to empty, none come | `notifications_reach_the_webhook_that_the_key_has` |
//! | `GET /api/v1/secrets/…` with a key | later: gateways; until then the product asks Verify, see `a_product_checks_a_key_by_verify` |

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    receiver::Receiver,
    support::{
        Reply, Server, Setup, reply,
        reply::{now_ms, until},
        server::ROOT,
    },
};

const KEYS: &str = "/api/v1/keys";
const NINETY_DAYS: i64 = 90 * 86_400_000;

fn noro() -> Server {
    Setup::new().ready("noro").start()
}

/// `curl -X POST https://noro.sh/api/v1/keys`
async fn generate(server: &Server) -> String {
    let made = reply(server.rest("POST", KEYS)).await.good(201);
    made["key"].as_str().unwrap().to_owned()
}

async fn with_key(server: &Server, method: &str, key: &str) -> Reply {
    reply(server.rest(method, KEYS).bearer_auth(key)).await
}

#[tokio::test]
async fn an_empty_post_creates_a_key_of_the_documented_form() {
    let server = noro();
    for request in [
        server.rest("POST", KEYS),
        // As curl sends with -d '', and as clients that always set a content type send.
        server.rest("POST", KEYS).header("content-type", "application/json"),
        server.rest("POST", KEYS).header("content-type", "application/x-www-form-urlencoded").body(""),
    ] {
        let made = reply(request).await.good(201);
        let body = made["key"].as_str().unwrap().strip_prefix("noro_").unwrap();
        assert_eq!(body.len(), 32);
        assert!(body.bytes().all(|c| c.is_ascii_alphanumeric()), "{body}");
        assert_eq!(made["prefix"], made["key"].as_str().unwrap()[..12]);
        assert!(made["expires"].is_i64());
    }
}

#[tokio::test]
async fn a_key_can_be_created_with_a_webhook() {
    let server = noro();
    let body = json!({"webhook": "https://example.com/webhook"});
    let made = reply(server.rest("POST", KEYS).json(&body)).await.good(201);
    assert!(made["webhookSecret"].as_str().unwrap().starts_with("whsec_"));
    let own = with_key(&server, "GET", made["key"].as_str().unwrap()).await.good(200);
    assert_eq!(own["webhook"], "https://example.com/webhook");
    let plain = reply(server.rest("POST", KEYS)).await.good(201);
    assert!(plain.get("webhookSecret").is_none());
}

#[tokio::test]
async fn a_key_expires_after_ninety_days_in_unix_milliseconds() {
    let server = noro();
    let before = now_ms();
    let expires = reply(server.rest("POST", KEYS)).await.good(201)["expires"].as_i64().unwrap();
    // Times are rounded down to milliseconds.
    assert!((before + NINETY_DAYS..=now_ms() + NINETY_DAYS).contains(&expires), "{expires}");
}

#[tokio::test]
async fn a_key_can_read_its_own_expiration() {
    let server = noro();
    let made = reply(server.rest("POST", KEYS)).await.good(201);
    let own = with_key(&server, "GET", made["key"].as_str().unwrap()).await.good(200);
    assert_eq!(own["expires"], made["expires"]);
    assert_eq!(own["id"], made["id"]);
    assert_eq!(own["status"], "active");
    assert!(own.get("key").is_none(), "a secret is shown once");
}

#[tokio::test]
async fn a_new_key_can_be_created_while_the_old_one_works() {
    let server = noro();
    let old = generate(&server).await;
    let new = generate(&server).await;
    with_key(&server, "GET", &old).await.good(200);
    with_key(&server, "DELETE", &old).await.good(200);
    with_key(&server, "GET", &new).await.good(200);
    with_key(&server, "GET", &old).await.refused(401, "revoked");
}

#[tokio::test]
async fn an_expired_key_is_refused() {
    let server = noro();
    let made = server.create_expiring(KEYS, None, json!({})).await;
    let key = made["key"].as_str().unwrap();
    let refused = until("the key expires", async || {
        let reply = with_key(&server, "GET", key).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert!(now_ms() >= made["expires"].as_i64().unwrap());
    assert_eq!(refused.refused(401, "expired"), "Invalid or expired API key");
}

#[tokio::test]
async fn a_deleted_key_is_invalid_at_once() {
    let server = noro();
    let key = generate(&server).await;
    assert_eq!(with_key(&server, "DELETE", &key).await.good(200), json!({"revoked": true}));
    for method in ["GET", "PATCH", "POST"] {
        assert_eq!(with_key(&server, method, &key).await.refused(401, "revoked"), "Invalid or expired API key");
    }
}

#[tokio::test]
async fn a_webhook_is_changed_and_removed() {
    let server = noro();
    let key = generate(&server).await;
    let patch = async |url: &str| {
        reply(server.rest("PATCH", KEYS).bearer_auth(&key).json(&json!({ "webhook": url }))).await.good(200)
    };
    let set = patch("https://new-url.com/webhook").await;
    assert_eq!(set["webhook"], "https://new-url.com/webhook");
    assert!(set["webhookSecret"].as_str().unwrap().starts_with("whsec_"));
    let changed = patch("https://newer-url.com/webhook").await;
    assert_eq!(changed["webhook"], "https://newer-url.com/webhook");
    assert!(changed.get("webhookSecret").is_none(), "the signing secret is shown once");
    assert_eq!(patch("").await["webhook"], Value::Null);
    assert_eq!(with_key(&server, "GET", &key).await.good(200)["webhook"], Value::Null);
}

#[tokio::test]
async fn notifications_reach_the_webhook_that_the_key_has() {
    let (old, new) = (Receiver::good().await, Receiver::good().await);
    let local = "[webhooks]\nallow_http = true\nallow_cidrs = [\"127.0.0.0/8\"]";
    let server = Setup::new().ready("noro").and(local).delivering().start();
    let body = json!({"webhook": old.url("/webhook")});
    let made = reply(server.rest("POST", KEYS).json(&body)).await.good(201);
    let (key, secret) = (made["key"].as_str().unwrap(), made["webhookSecret"].as_str().unwrap());
    let created = old.wait_for(1).await.remove(0);
    assert_eq!((created.kind().as_str(), created.path.as_str()), ("key.created", "/webhook"));
    assert!(created.is_by(secret));
    let patch = async |url: &str| {
        reply(server.rest("PATCH", KEYS).bearer_auth(key).json(&json!({ "webhook": url }))).await.good(200)
    };
    patch(&new.url("/webhook")).await;
    assert_eq!(new.wait_for(1).await[0].kind(), "webhook.updated");
    with_key(&server, "DELETE", key).await.good(200);
    let revoked = new.wait_for(2).await.remove(1);
    assert_eq!((revoked.kind().as_str(), &revoked.json()["data"]["status"]), ("key.revoked", &json!("revoked")));
    assert!(revoked.is_by(secret), "a new URL keeps the secret");
    // The webhook is removed, so this revocation is not delivered.
    let silent = reply(server.rest("POST", KEYS).json(&json!({"webhook": old.url("/")}))).await.good(201);
    old.wait_for(2).await;
    let silent = silent["key"].as_str().unwrap();
    reply(server.rest("PATCH", KEYS).bearer_auth(silent).json(&json!({"webhook": ""}))).await.good(200);
    with_key(&server, "DELETE", silent).await.good(200);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!((old.requests().len(), new.requests().len()), (2, 2));
}

#[tokio::test]
async fn only_the_bearer_scheme_carries_a_key() {
    let server = noro();
    let key = generate(&server).await;
    reply(server.rest("GET", KEYS).header("authorization", format!("bearer {key}"))).await.good(200);
    for (name, value) in [
        ("authorization", format!("Basic {key}")),
        ("authorization", key.clone()),
        ("x-api-key", key.clone()),
        ("cookie", format!("key={key}")),
    ] {
        let message = reply(server.rest("GET", KEYS).header(name, value)).await.refused(401, "missing_credential");
        assert_eq!(message, "No authentication provided");
    }
    reply(server.rest("GET", &format!("{KEYS}?key={key}"))).await.refused(401, "missing_credential");
}

#[tokio::test]
async fn the_hundred_and_first_request_of_a_minute_is_429() {
    let server = noro();
    let (key, other) = (generate(&server).await, generate(&server).await);
    for left in (0..100).rev() {
        let answer = with_key(&server, "GET", &key).await;
        answer.good(200);
        assert_eq!((answer.number("x-ratelimit-limit"), answer.number("x-ratelimit-remaining")), (100, left));
    }
    let refused = with_key(&server, "GET", &key).await;
    assert_eq!(refused.refused(429, "rate_limited"), "Rate limit exceeded");
    assert_eq!((refused.number("x-ratelimit-limit"), refused.number("x-ratelimit-remaining")), (100, 0));
    assert!((1..=66).contains(&refused.number("retry-after")), "{refused:?}");
    // Each key has its own limit.
    assert_eq!(with_key(&server, "GET", &other).await.number("x-ratelimit-remaining"), 99);
}

/// The same rule with a window short enough to wait for.
#[tokio::test]
async fn the_window_slides_instead_of_restarting() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/noro.toml")).unwrap();
    let short = text.replace("{ limit = 100, window = \"60s\" }", "{ limit = 4, window = \"2s\" }");
    assert_ne!(text, short);
    let server = Setup::new().config(&short).start();
    let key = generate(&server).await;
    let mut admitted = Vec::new();
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        let sent = start.elapsed();
        let status = with_key(&server, "GET", &key).await.status;
        if status == 200 {
            admitted.push((sent, start.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(admitted.len() >= 8, "spent requests come back: {admitted:?}");
    for five in admitted.windows(5) {
        // The server decided at some moment between the request and its response.
        let span = five[4].1.saturating_sub(five[0].0);
        assert!(span >= Duration::from_secs(2), "five requests within {span:?}");
    }
}

#[tokio::test]
async fn answers_carry_the_rate_limit_and_a_request_id() {
    let server = noro();
    let key = generate(&server).await;
    let before = now_ms();
    let answer = with_key(&server, "GET", &key).await;
    assert_eq!(answer.number("x-ratelimit-limit"), 100);
    assert_eq!(answer.number("x-ratelimit-remaining"), 99);
    let reset = answer.number("x-ratelimit-reset");
    assert!((before..=now_ms() + 66_000).contains(&reset), "{reset}");
    let id = answer.header("x-request-id").unwrap().strip_prefix("req_").unwrap();
    assert!(id.len() >= 16 && id.bytes().all(|c| c.is_ascii_alphanumeric()), "{id}");
    assert_ne!(with_key(&server, "GET", &key).await.header("x-request-id"), answer.header("x-request-id"));
}

#[tokio::test]
async fn two_keys_have_nothing_in_common() {
    let server = noro();
    let (development, production) = (generate(&server).await, generate(&server).await);
    assert_ne!(development, production);
    with_key(&server, "DELETE", &development).await.good(200);
    with_key(&server, "GET", &production).await.good(200);
}

#[tokio::test]
async fn a_product_checks_a_key_by_verify() {
    let server = noro();
    let key = generate(&server).await;
    let (status, verdict) = server.call("POST", "/api/v1/verify", Some(ROOT), json!({"secret": key})).await;
    assert_eq!((status, &verdict["code"]), (200, &json!("VALID")));
    assert_eq!((&verdict["rateLimit"]["limit"], &verdict["rateLimit"]["remaining"]), (&json!(100), &json!(99)));
}
