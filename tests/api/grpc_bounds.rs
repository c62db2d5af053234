//! Every field of every message beyond its bound, malformed, or missing where it is required.

use std::collections::HashMap;

use keyward::proto::{
    CreateRequest, ListRequest, RateLimit, RevokeRequest, UpdateWebhookRequest, VerifyRequest, create_request::Expiry,
};
use prost_types::{Duration, Timestamp};

use crate::support::{
    Setup,
    grpc::{assert_invalid, check, create, key, now, own_limit, refused, texts},
    server::{ROOT, with},
};

/// Text of this many characters, each longer than one byte.
fn wide(characters: usize) -> String {
    "é".repeat(characters)
}

const CONTROL: [&str; 5] = ["a\0", "\n", "a\tb", "\u{7f}", "\u{85}"];

fn metadata(pairs: usize, bytes_each: usize) -> HashMap<String, String> {
    (0..pairs).map(|pair| (format!("k{pair:03}"), "v".repeat(bytes_each - 4))).collect()
}

fn creates() -> Vec<(CreateRequest, &'static str)> {
    let mut cases = Vec::new();
    let mut case = |field, change: &dyn Fn(&mut CreateRequest)| {
        let mut request = CreateRequest::default();
        change(&mut request);
        cases.push((request, field));
    };
    for text in CONTROL.map(str::to_owned).into_iter().chain([wide(129)]) {
        case("organization", &|r| r.organization.clone_from(&text));
        case("instance", &|r| r.instance.clone_from(&text));
        case("environment", &|r| r.environment.clone_from(&text));
    }
    for text in CONTROL.map(str::to_owned).into_iter().chain([wide(201)]) {
        case("name", &|r| r.name.clone_from(&text));
    }
    for scopes in [
        vec!["s".to_owned(); 65],
        texts(&[""]),
        texts(&["a", ""]),
        texts(&["a b"]),
        texts(&["a/b"]),
        texts(&["é"]),
        texts(&["a\0"]),
        texts(&["*"]),
        vec!["s".repeat(65)],
    ] {
        case("scopes", &|r| r.scopes.clone_from(&scopes));
    }
    for pairs in [
        metadata(33, 10),
        metadata(1, 4_097),
        metadata(32, 129),
        HashMap::from([(String::new(), "v".to_owned())]),
        HashMap::from([("k\0".to_owned(), "v".to_owned())]),
        HashMap::from([("k".to_owned(), "\0".to_owned())]),
    ] {
        case("metadata", &|r| r.metadata.clone_from(&pairs));
    }
    for url in webhooks() {
        case("webhook_url", &|r| r.webhook_url.clone_from(&url));
    }
    for at in [0, -1, i64::MIN, i64::MAX, now() / 1_000_000 - 1, now() / 1_000_000 + 3_660 * 86_400] {
        let at = Timestamp { seconds: at, nanos: 0 };
        case("expire_time", &|r| r.expiry = Some(Expiry::ExpireTime(at)));
    }
    case("expire_time", &|r| {
        r.expiry = Some(Expiry::ExpireTime(Timestamp { seconds: now() / 1_000_000 + 60, nanos: i32::MAX }));
    });
    for ttl in [(0, 0), (-1, 0), (0, -1), (i64::MAX, 0), (i64::MIN, 0), (3_660 * 86_400, 0), (60, i32::MIN)] {
        let ttl = Duration { seconds: ttl.0, nanos: ttl.1 };
        case("ttl", &|r| r.expiry = Some(Expiry::Ttl(ttl)));
    }
    for limit in [0, 1_000_000_001, u32::MAX] {
        case("rate_limit.limit", &|r| r.rate_limit = Some(own_limit(limit, 60)));
    }
    let windows = [(0, 0), (-60, 0), (0, 999_999_999), (1, 1_000), (60, i32::MAX), (366 * 86_400, 1_000_000)];
    for (seconds, nanos) in windows.into_iter().chain([(i64::MAX, 0), (i64::MIN, 0)]) {
        let window = Some(Duration { seconds, nanos });
        case("rate_limit.window", &|r| r.rate_limit = Some(RateLimit { limit: 5, window }));
    }
    case("rate_limit.window", &|r| r.rate_limit = Some(RateLimit { limit: 5, window: None }));
    for keyspace in ["no-such", "\0", &wide(2_000)] {
        case("keyspace", &|r| keyspace.clone_into(&mut r.keyspace));
    }
    cases
}

fn webhooks() -> Vec<String> {
    [
        "http://example.com/h",
        "example.com/h",
        "/h",
        "//example.com",
        "https://",
        "https:///h",
        "https:example.com",
        "https://user@example.com/",
        "https://user:pw@example.com/",
        "https://:@example.com/",
        "https://exa mple.com/",
        "https://example.com/\0",
        "https://example.com/\n",
        "ftp://example.com",
        " https://example.com",
        "javascript:alert(1)",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([format!("https://example.com/{}", "a".repeat(2_029))])
    .collect()
}

#[tokio::test]
async fn a_create_beyond_a_bound_is_refused_with_the_name_of_the_field() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    for (request, field) in creates() {
        let case = format!("{field}: {request:?}");
        assert_invalid(client.create(with(ROOT, request)).await, &[field], case.get(..300).unwrap_or(&case));
    }
    let listed = client.list(with(ROOT, ListRequest::default())).await.unwrap().into_inner();
    assert_eq!(listed.keys, [], "a refused request creates nothing");
}

#[tokio::test]
async fn a_create_at_its_bounds_is_accepted() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let long_url = format!("https://example.com/{}", "a".repeat(2_028));
    assert_eq!(long_url.len(), 2_048);
    let request = CreateRequest {
        keyspace: "default".into(),
        organization: wide(128),
        instance: wide(128),
        environment: wide(128),
        name: wide(200),
        scopes: (0..64).map(|n| format!("{n:02}:{}", "A".repeat(61))).collect(),
        webhook_url: long_url.clone(),
        metadata: metadata(32, 128),
        ..CreateRequest::default()
    };
    let key = create(&mut client, ROOT, request.clone()).await.key.unwrap();
    assert_eq!((key.organization, key.name, key.webhook_url), (request.organization, request.name, long_url));
    assert_eq!((key.scopes, key.metadata), (request.scopes, request.metadata));
}

#[tokio::test]
async fn every_invalid_field_of_a_create_is_named_at_once() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let request = CreateRequest {
        organization: wide(129),
        instance: wide(129),
        environment: wide(129),
        name: wide(201),
        scopes: texts(&[""]),
        webhook_url: "nonsense".into(),
        metadata: metadata(33, 5),
        expiry: Some(Expiry::Ttl(Duration { seconds: -1, nanos: 0 })),
        ..CreateRequest::default()
    };
    let mut fields = refused(client.create(with(ROOT, request)).await).fields;
    fields.sort();
    let expected = ["environment", "instance", "metadata", "name", "organization", "scopes", "ttl", "webhook_url"];
    assert_eq!(fields, expected);
}

#[tokio::test]
async fn a_refusal_does_not_repeat_the_request() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    for mut request in [CreateRequest::default(), CreateRequest::default()] {
        request.name = "hidden\n".into();
        request.scopes = texts(&["hidden scope"]);
        request.webhook_url = "http://hidden.example".into();
        request.keyspace = "default".into();
        let refusal = refused(client.create(with(ROOT, request)).await);
        assert!(!format!("{refusal:?}").contains("hidden"), "{refusal:?}");
    }
}

#[tokio::test]
async fn a_list_beyond_a_bound_is_refused_with_the_name_of_the_field() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let mut cases = Vec::new();
    for text in CONTROL.map(str::to_owned).into_iter().chain([wide(129)]) {
        cases.push((ListRequest { keyspace: text.clone(), ..Default::default() }, "keyspace"));
        cases.push((ListRequest { organization: text.clone(), ..Default::default() }, "organization"));
        cases.push((ListRequest { instance: text.clone(), ..Default::default() }, "instance"));
        cases.push((ListRequest { environment: text.clone(), ..Default::default() }, "environment"));
    }
    for text in CONTROL {
        cases.push((ListRequest { created_by: text.into(), ..Default::default() }, "created_by"));
    }
    for status in [-1, 4, 99, i32::MAX] {
        cases.push((ListRequest { status, ..Default::default() }, "status"));
    }
    for page_size in [-1, 1_001, i32::MIN, i32::MAX] {
        cases.push((ListRequest { page_size, ..Default::default() }, "page_size"));
    }
    for page_token in ["nonsense", "\0", "AAAA", &"A".repeat(43), &wide(10_000)] {
        cases.push((ListRequest { page_token: page_token.into(), ..Default::default() }, "page_token"));
    }
    for (request, field) in cases {
        let case = format!("{request:?}");
        assert_invalid(client.list(with(ROOT, request)).await, &[field], case.get(..300).unwrap_or(&case));
    }
}

#[tokio::test]
async fn every_invalid_field_of_a_list_is_named_at_once() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let request = ListRequest { organization: wide(129), page_size: -1, ..ListRequest::default() };
    let mut fields = refused(client.list(with(ROOT, request)).await).fields;
    fields.sort();
    assert_eq!(fields, ["organization", "page_size"]);
}

#[tokio::test]
async fn a_revoke_beyond_a_bound_is_refused_with_the_name_of_the_field() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let made = key(&mut client, "", "", &[]).await;
    let request = |id: &str, reason: &str| RevokeRequest { id: id.into(), reason: reason.into() };
    for id in ids(&made.id) {
        assert_invalid(client.revoke(with(ROOT, request(&id, ""))).await, &["id"], &id);
    }
    for reason in CONTROL.map(str::to_owned).into_iter().chain([wide(201)]) {
        assert_invalid(client.revoke(with(ROOT, request(&made.id, &reason))).await, &["reason"], &reason);
    }
    assert_invalid(client.revoke(with(ROOT, request("", "\0"))).await, &["id", "reason"], "both");
    client.revoke(with(ROOT, request(&made.id, &wide(200)))).await.unwrap();
}

/// Malformed variants of a key id.
fn ids(good: &str) -> Vec<String> {
    let mut ids = texts(&["", "key_", "nonsense", "\0", "key_zzzzzzzzzzzzzzzzzzzzzzzzzz", "' OR 1=1 --"]);
    ids.push(good.to_uppercase());
    ids.push(format!("{good}0"));
    ids.push(format!(" {good}"));
    ids.push(good.replacen("key_", "", 1));
    ids.push(good.replacen("key_", "user_", 1));
    ids.push(wide(10_000));
    ids
}

#[tokio::test]
async fn an_update_webhook_beyond_a_bound_is_refused_with_the_name_of_the_field() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let made = key(&mut client, "", "", &[]).await;
    let request =
        |id: &str, url: &str| UpdateWebhookRequest { id: id.into(), webhook_url: url.into(), ..Default::default() };
    for id in ids(&made.id) {
        assert_invalid(client.update_webhook(with(ROOT, request(&id, ""))).await, &["id"], &id);
    }
    for url in webhooks() {
        assert_invalid(client.update_webhook(with(ROOT, request(&made.id, &url))).await, &["webhook_url"], &url);
    }
    assert_invalid(client.update_webhook(with(ROOT, request("", "x"))).await, &["id", "webhook_url"], "both");
}

#[tokio::test]
async fn a_verify_beyond_a_bound_is_refused_with_the_name_of_the_field_whatever_the_secret() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let made = key(&mut client, "", "", &[]).await;
    for secret in [made.secret.as_str(), "nonsense"] {
        let long = wide(129);
        let mut cases = vec![
            (VerifyRequest { keyspace: long.clone(), ..check(secret) }, "keyspace"),
            (VerifyRequest { organization: long.clone(), ..check(secret) }, "organization"),
            (VerifyRequest { instance: long.clone(), ..check(secret) }, "instance"),
            (VerifyRequest { environment: long.clone(), ..check(secret) }, "environment"),
        ];
        for scopes in [vec!["s".to_owned(); 65], texts(&[""]), texts(&["a b"]), vec!["s".repeat(65)]] {
            cases.push((VerifyRequest { required_scopes: scopes, ..check(secret) }, "required_scopes"));
        }
        for (request, field) in cases {
            assert_invalid(client.verify(with(ROOT, request)).await, &[field], field);
        }
    }
}

#[tokio::test]
async fn a_message_larger_than_a_mebibyte_is_out_of_range_on_every_call() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let long = "a".repeat(1 << 20);
    let create = CreateRequest { name: long.clone(), ..Default::default() };
    let list = ListRequest { organization: long.clone(), ..Default::default() };
    let revoke = RevokeRequest { id: long.clone(), ..Default::default() };
    let update = UpdateWebhookRequest { id: long.clone(), ..Default::default() };
    for code in [
        client.create(with(ROOT, create)).await.unwrap_err().code(),
        client.list(with(ROOT, list)).await.unwrap_err().code(),
        client.revoke(with(ROOT, revoke)).await.unwrap_err().code(),
        client.update_webhook(with(ROOT, update)).await.unwrap_err().code(),
        client.verify(with(ROOT, check(&long))).await.unwrap_err().code(),
    ] {
        assert_eq!(code, tonic::Code::OutOfRange);
    }
}
