//! A key's own rate limit, which operators set and which overrides its keyspace's.

use keyward::proto::{Code, CreateRequest, ListRequest, RateLimit, VerifyRequest};
use serde_json::{Value, json};
use tonic::Code::PermissionDenied;

use crate::support::{
    Server, Setup,
    grpc::{Client, Made, assert_refused, check, create, key, list, made, own_limit, record, verify},
    reply,
    server::{ROOT, with},
};

/// One keyspace with a rate limit and one without.
const KEYSPACES: &str = r#"
[[keyspace]]
name = "limited"
prefix = "li_"
secret = { encoding = "alphanumeric", length = 32 }
scopes = ["use", "admin"]
default_scopes = ["use"]
admin_scope = "admin"
rate_limit = { limit = 3, window = "1h" }

[[keyspace]]
name = "free"
prefix = "fr_"
secret = { encoding = "alphanumeric", length = 32 }
"#;

fn request(keyspace: &str, rate_limit: RateLimit) -> CreateRequest {
    CreateRequest { keyspace: keyspace.into(), rate_limit: Some(rate_limit), ..CreateRequest::default() }
}

async fn with_own(client: &mut Client, keyspace: &str, limit: u32) -> Made {
    made(create(client, ROOT, request(keyspace, own_limit(limit, 7_200))).await)
}

/// The reported limit, and how many calls of cost 1 are admitted.
async fn admitted(client: &mut Client, secret: &str) -> (u32, u32) {
    let limit = verify(client, VerifyRequest { cost: Some(0), ..check(secret) }).await.rate_limit.unwrap().limit;
    for count in 0.. {
        if verify(client, check(secret)).await.code() == Code::RateLimited {
            return (limit, count);
        }
    }
    unreachable!("the limit is never reached")
}

#[tokio::test]
async fn a_keys_own_limit_overrides_its_keyspaces() {
    let server = Setup::new().config(KEYSPACES).start();
    let mut client = server.client().await;
    for (keyspace, own) in [("limited", 5), ("limited", 1), ("free", 2)] {
        let made = with_own(&mut client, keyspace, own).await;
        assert_eq!(admitted(&mut client, &made.secret).await, (own, own), "{keyspace}");
    }
    let plain = key(&mut client, "limited", "", &[]).await;
    assert_eq!(admitted(&mut client, &plain.secret).await, (3, 3));
}

#[tokio::test]
async fn a_keys_own_limit_is_shown_and_survives_a_restart() {
    let mut server = Setup::new().config(KEYSPACES).start();
    let mut client = server.client().await;
    let own = with_own(&mut client, "limited", 5).await;
    let plain = key(&mut client, "limited", "", &[]).await;
    assert_eq!(server.stop(), Some(0));
    // After the restart the cache is empty: look-ups of one key and of several at once read the limit again.
    let server = Setup::new().config(KEYSPACES).folder(server.folder()).start();
    let mut client = server.client().await;
    assert_eq!(record(&mut client, &own.id).await.rate_limit, Some(own_limit(5, 7_200)));
    assert_eq!(record(&mut client, &plain.id).await.rate_limit, None, "the keyspace's limit is not the key's own");
    let shown: Vec<_> =
        list(&mut client, ROOT, ListRequest::default()).await.into_iter().map(|key| key.rate_limit).collect();
    assert_eq!(shown, [None, Some(own_limit(5, 7_200))]);
    assert_eq!(admitted(&mut client, &own.secret).await, (5, 5));
    assert_eq!(admitted(&mut client, &plain.secret).await, (3, 3));
}

#[tokio::test]
async fn only_operators_may_set_a_keys_own_limit() {
    let server = Setup::new().config(KEYSPACES).start();
    let mut client = server.client().await;
    let admin = key(&mut client, "limited", "", &["admin"]).await.secret;
    let service = key(&mut client, "keyward", "", &["verify"]).await.secret;
    let operator = key(&mut client, "keyward", "", &["root"]).await.secret;
    for caller in [&admin, &service] {
        // Also an invalid limit, or one below the keyspace's.
        for limit in [own_limit(1_000, 60), own_limit(1, 7_200), own_limit(0, 0)] {
            let refused = client.create(with(caller, request("limited", limit))).await;
            assert_refused(refused, PermissionDenied, "FORBIDDEN");
        }
    }
    create(&mut client, &operator, request("limited", own_limit(1_000, 60))).await;
    create(&mut client, &admin, CreateRequest { keyspace: "limited".into(), ..CreateRequest::default() }).await;
}

async fn post(server: &Server, path: &str, bearer: &str, rate_limit: Value) -> crate::support::Reply {
    let body = json!({"name": "n", "keyspace": "limited", "rateLimit": rate_limit});
    reply(server.rest("POST", path).bearer_auth(bearer).json(&body)).await
}

#[tokio::test]
async fn rest_accepts_shows_and_enforces_a_keys_own_limit() {
    let server = Setup::new().config(KEYSPACES).start();
    for path in ["/api/api-keys", "/api/v1/keys"] {
        let made = post(&server, path, ROOT, json!({"limit": 2, "windowMs": 3_600_000})).await.good(201);
        let item = format!("/api/api-keys/{}", made["id"].as_str().unwrap());
        let item = reply(server.rest("GET", &item).bearer_auth(ROOT)).await.good(200);
        assert_eq!(item["rateLimit"], json!({"limit": 2, "windowMs": 3_600_000}));
        let own = || reply(server.rest("GET", "/api/v1/keys").bearer_auth(made["key"].as_str().unwrap()));
        for left in [1, 0] {
            let answer = own().await;
            answer.good(200);
            assert_eq!((answer.number("x-ratelimit-limit"), answer.number("x-ratelimit-remaining")), (2, left));
        }
        own().await.refused(429, "rate_limited");
        let made = post(&server, path, ROOT, Value::Null).await.good(201);
        let item = format!("/api/api-keys/{}", made["id"].as_str().unwrap());
        assert_eq!(reply(server.rest("GET", &item).bearer_auth(ROOT)).await.good(200)["rateLimit"], Value::Null);
    }
}

#[tokio::test]
async fn rest_names_invalid_fields_of_the_limit_and_refuses_other_callers() {
    let server = Setup::new().config(KEYSPACES).start();
    let admin = server.create(json!({"name": "n", "keyspace": "limited", "scopes": ["admin"]})).await;
    let admin = admin["key"].as_str().unwrap();
    let (limit, window) = ("rateLimit.limit", "rateLimit.windowMs");
    for path in ["/api/api-keys", "/api/v1/keys"] {
        for (given, fields) in [
            (json!({}), &[limit, window][..]),
            (json!({"limit": 0, "windowMs": 0}), &[limit, window]),
            (json!({"limit": 1}), &[window]),
            (json!({"windowMs": 1_000}), &[limit]),
            (json!({"limit": 1_000_000_001, "windowMs": 1_000}), &[limit]),
            (json!({"limit": u64::MAX, "windowMs": u64::MAX}), &[limit, window]),
            (json!({"limit": 1, "windowMs": 999}), &[window]),
            (json!({"limit": 1, "windowMs": 31_622_400_001_u64}), &[window]),
            (json!({"limit": "1", "windowMs": 1_000.5}), &[limit, window]),
            (json!({"limit": -1, "windowMs": 1_000}), &[limit]),
            (json!({"limit": 1, "windowMs": 1_000, "burst": 2}), &["rateLimit"]),
            (json!(5), &["rateLimit"]),
            (json!([1, 2]), &["rateLimit"]),
        ] {
            post(&server, path, ROOT, given).await.bad(fields);
        }
        let good = json!({"limit": 2, "windowMs": 1_000});
        post(&server, path, admin, good).await.refused(403, "forbidden");
    }
}
