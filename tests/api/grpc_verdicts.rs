//! Verify's verdicts: each one alone, and the order of precedence.

use std::{collections::HashMap, time::Duration};

use keyward::{
    domain::{
        clock::SystemEntropy,
        master_keys::{MasterKey, MasterKeys},
        secret::Encoding,
    },
    proto::{Code, CreateRequest, VerifyRequest, VerifyResponse},
};

use crate::support::{
    Server, Setup,
    grpc::{
        Client, assert_refused, check, code, create, eventually, forged, made, revoke, texts, ttl, until_expired,
        verify,
    },
    reply::{short_lives, within},
    server::{ROOT, with},
};

/// One keyspace with scopes and a rate limit, so that one key can get every verdict.
const KEYSPACE: &str = r#"
[[keyspace]]
name = "product"
prefix = "pr_"
secret = { encoding = "alphanumeric", length = 32 }
scopes = ["read", "write"]
rate_limit = { limit = 2, window = "1h" }

[[keyspace]]
name = "other"
prefix = "ot_"
secret = { encoding = "alphanumeric", length = 32 }
"#;

async fn start() -> (Server, Client) {
    let server = Setup::new().config(KEYSPACE).start();
    let client = server.client().await;
    (server, client)
}

fn bound() -> CreateRequest {
    CreateRequest {
        keyspace: "product".into(),
        organization: "acme".into(),
        instance: "eu-1".into(),
        environment: "production".into(),
        name: "deploys".into(),
        scopes: texts(&["read"]),
        metadata: HashMap::from([("team".into(), "core".into())]),
        ..CreateRequest::default()
    }
}

/// A check that the key of [`bound`] passes.
fn fitting(secret: &str) -> VerifyRequest {
    VerifyRequest {
        keyspace: "product".into(),
        organization: "acme".into(),
        instance: "eu-1".into(),
        environment: "production".into(),
        required_scopes: texts(&["read"]),
        cost: Some(0),
        ..check(secret)
    }
}

/// The verdicts on an existing key other than VALID, in their order of precedence.
const REASONS: [Code; 7] = [
    Code::Revoked,
    Code::Expired,
    Code::WrongEnvironment,
    Code::WrongOrganization,
    Code::WrongInstance,
    Code::InsufficientScope,
    Code::RateLimited,
];

/// Creates a key in the state that the verdicts require: revoked, expired, or without remaining limit.
async fn prepare(client: &mut Client, reasons: &[Code]) -> String {
    let expires = reasons.contains(&Code::Expired);
    for life in short_lives() {
        let expiry = expires.then(|| ttl(life)).flatten();
        let key = made(create(client, ROOT, CreateRequest { expiry, ..bound() }).await);
        if reasons.contains(&Code::RateLimited) {
            let spend = VerifyRequest { cost: Some(2), ..check(&key.secret) };
            match verify(client, spend).await.code() {
                // The machine is too busy for this life of the key.
                Code::Expired if expires => continue,
                code => assert_eq!(code, Code::Valid),
            }
        }
        if expires {
            until_expired(client, &key.secret).await;
        }
        if reasons.contains(&Code::Revoked) {
            revoke(client, &key.id).await;
        }
        return key.secret;
    }
    panic!("no key lived long enough to spend its limit")
}

/// A check that gets the verdicts that depend on the check itself.
fn failing(secret: &str, reasons: &[Code]) -> VerifyRequest {
    let mut request = fitting(secret);
    for reason in reasons {
        match reason {
            Code::WrongEnvironment => request.environment = "sandbox".into(),
            Code::WrongOrganization => request.organization = "Acme".into(),
            Code::WrongInstance => request.instance = "eu-2".into(),
            Code::InsufficientScope => request.required_scopes = texts(&["read", "write"]),
            Code::RateLimited => request.cost = Some(1),
            _ => {}
        }
    }
    request
}

#[tokio::test]
async fn each_single_reason_gives_its_verdict() {
    let (_server, mut client) = start().await;
    assert_eq!(verify(&mut client, check("")).await.code(), Code::Malformed);
    let key = made(create(&mut client, ROOT, bound()).await);
    assert_eq!(verify(&mut client, fitting(&key.secret)).await.code(), Code::Valid);
    assert_eq!(verify(&mut client, check(&forged(&key.secret))).await.code(), Code::Malformed);
    for reason in REASONS {
        let secret = prepare(&mut client, &[reason]).await;
        let verdict = verify(&mut client, failing(&secret, &[reason])).await;
        assert_eq!(verdict.code(), reason);
    }
}

#[tokio::test]
async fn of_two_reasons_the_first_in_the_order_of_precedence_is_the_verdict() {
    let (_server, mut client) = start().await;
    for (index, first) in REASONS.into_iter().enumerate() {
        for second in &REASONS[index + 1..] {
            let reasons = [first, *second];
            let secret = prepare(&mut client, &reasons).await;
            let verdict = verify(&mut client, failing(&secret, &reasons)).await;
            assert_eq!(verdict.code(), first, "{reasons:?}");
        }
    }
}

#[tokio::test]
async fn a_key_of_another_keyspace_is_not_found_whatever_else_is_wrong_with_it() {
    let (_server, mut client) = start().await;
    for reasons in [&[][..], &[Code::Revoked], &[Code::Expired], &[Code::WrongEnvironment, Code::RateLimited]] {
        let secret = prepare(&mut client, reasons).await;
        for keyspace in ["other", "no-such-keyspace", "keyward", "Product"] {
            let request = VerifyRequest { keyspace: keyspace.into(), ..failing(&secret, reasons) };
            let verdict = verify(&mut client, request).await;
            assert_eq!(verdict.code(), Code::NotFound, "{keyspace} {reasons:?}");
            assert_anonymous(&verdict);
        }
    }
}

#[tokio::test]
async fn a_malformed_secret_is_malformed_whatever_is_asserted() {
    let (_server, mut client) = start().await;
    let key = made(create(&mut client, ROOT, bound()).await);
    let wrong = [
        String::new(),
        " ".into(),
        "pr_".into(),
        "nonsense".into(),
        forged(&key.secret),
        format!(" {}", key.secret),
        format!("{}\n", key.secret),
        format!("{}x", key.secret),
        key.secret[..key.secret.len() - 1].to_owned(),
        key.secret.to_uppercase(),
        key.secret.replacen("pr_", "ot_", 1),
        key.secret.replacen("pr_", "", 1),
        format!("Bearer {}", key.secret),
        key.id.clone(),
        ROOT.into(),
        "pr_ключ鍵🔑".into(),
        "\0".repeat(40),
        "pr_\u{feff}".into(),
    ];
    for secret in wrong {
        let verdict = verify(&mut client, failing(&secret, &[Code::WrongEnvironment])).await;
        assert_eq!(verdict.code(), Code::Malformed, "{secret:?}");
        assert_anonymous(&verdict);
    }
}

#[tokio::test]
async fn a_secret_of_900_kilobytes_is_malformed_like_any_other() {
    let (_server, mut client) = start().await;
    for secret in ["a".repeat(900_000), format!("pr_{}", "0".repeat(900_000)), "é".repeat(450_000)] {
        assert_eq!(code(&mut client, &secret).await, Code::Malformed);
    }
}

#[tokio::test]
async fn a_well_formed_secret_of_no_key_is_not_found() {
    let master = MasterKey::new([7; 32]);
    let server =
        Setup::new().config(KEYSPACE).env("KEYWARD_MASTER_KEY", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=").start();
    let mut client = server.client().await;
    let encoding = Encoding::Alphanumeric { length: 32 };
    let secret = encoding.generate("pr_", &MasterKeys::derive(&master), &SystemEntropy);
    let verdict = verify(&mut client, check(secret.expose())).await;
    assert_eq!(verdict.code(), Code::NotFound);
    assert_anonymous(&verdict);
    let answer = client.verify(with(secret.expose(), check("x"))).await;
    assert_refused(answer, tonic::Code::Unauthenticated, "NOT_FOUND");
    // A key that is created later is found: NOT_FOUND is not cached.
    let key = made(create(&mut client, ROOT, bound()).await);
    assert_eq!(code(&mut client, &key.secret).await, Code::Valid);
}

/// Guessing secrets must reveal nothing: neither MALFORMED nor NOT_FOUND names a key.
fn assert_anonymous(verdict: &VerifyResponse) {
    let bare = VerifyResponse { code: verdict.code, message: verdict.message.clone(), ..VerifyResponse::default() };
    assert_eq!(verdict, &bare);
    assert_eq!(verdict.message, sentence(verdict.code(), ""));
}

/// The sentence of the REST error with this code, which a service can pass on.
fn sentence(code: Code, missing_scope: &str) -> String {
    match code {
        Code::Valid => "The key is valid".into(),
        Code::InsufficientScope => format!("API key does not have '{missing_scope}' scope"),
        Code::RateLimited => "Rate limit exceeded".into(),
        _ => "Invalid or expired API key".into(),
    }
}

#[tokio::test]
async fn the_message_names_the_first_missing_scope_in_the_order_of_the_request() {
    let (_server, mut client) = start().await;
    let key = made(create(&mut client, ROOT, bound()).await);
    for (required, missing) in
        [(&["update"][..], "update"), (&["read", "b", "a"], "b"), (&["a:b.c_d-e", "read"], "a:b.c_d-e")]
    {
        let request = VerifyRequest { required_scopes: texts(required), ..fitting(&key.secret) };
        let verdict = verify(&mut client, request).await;
        assert_eq!(
            (verdict.code(), verdict.message),
            (Code::InsufficientScope, sentence(Code::InsufficientScope, missing))
        );
    }
}

#[tokio::test]
async fn every_verdict_on_an_existing_key_describes_the_key() {
    let (_server, mut client) = start().await;
    for reasons in [&[][..]].into_iter().chain(REASONS.chunks(1)) {
        let secret = prepare(&mut client, reasons).await;
        let verdict = verify(&mut client, failing(&secret, reasons)).await;
        assert_eq!(verdict.code(), reasons.first().copied().unwrap_or(Code::Valid));
        assert_eq!(verdict.message, sentence(verdict.code(), "write"));
        assert!(verdict.key_id.starts_with("key_"));
        let seen = [&verdict.keyspace, &verdict.organization, &verdict.instance, &verdict.environment, &verdict.name];
        assert_eq!(seen, ["product", "acme", "eu-1", "production", "deploys"]);
        assert_eq!(verdict.scopes, ["read"]);
        assert_eq!(verdict.metadata, HashMap::from([("team".into(), "core".into())]));
        assert!(verdict.create_time.is_some());
        assert_eq!(verdict.expire_time.is_some(), reasons.contains(&Code::Expired), "{reasons:?}");
    }
}

#[tokio::test]
async fn an_empty_field_asserts_nothing_and_any_other_must_equal_the_keys_own() {
    let (_server, mut client) = start().await;
    let bare =
        made(create(&mut client, ROOT, CreateRequest { keyspace: "product".into(), ..Default::default() }).await);
    let full = made(create(&mut client, ROOT, bound()).await);
    let free = |secret: &str| VerifyRequest { cost: Some(0), ..check(secret) };
    for secret in [&bare.secret, &full.secret] {
        assert_eq!(verify(&mut client, free(secret)).await.code(), Code::Valid);
    }
    let asserting = |name: &str, value: &str, secret: &str| {
        let mut request = free(secret);
        match name {
            "environment" => request.environment = value.into(),
            "organization" => request.organization = value.into(),
            _ => request.instance = value.into(),
        }
        request
    };
    for (name, own, wrong) in [
        ("environment", "production", Code::WrongEnvironment),
        ("organization", "acme", Code::WrongOrganization),
        ("instance", "eu-1", Code::WrongInstance),
    ] {
        // A key without a binding does not match an asserted one.
        assert_eq!(verify(&mut client, asserting(name, own, &bare.secret)).await.code(), wrong);
        assert_eq!(verify(&mut client, asserting(name, own, &full.secret)).await.code(), Code::Valid);
        for near in [own.to_uppercase(), format!("{own} "), own[..1].to_owned()] {
            assert_eq!(verify(&mut client, asserting(name, &near, &full.secret)).await.code(), wrong, "{near:?}");
        }
    }
}

#[tokio::test]
async fn every_required_scope_must_be_held() {
    let (_server, mut client) = start().await;
    let key = made(create(&mut client, ROOT, bound()).await);
    for (scopes, expected) in [
        (&[][..], Code::Valid),
        (&["read"], Code::Valid),
        (&["read", "read"], Code::Valid),
        (&["write"], Code::InsufficientScope),
        (&["read", "write"], Code::InsufficientScope),
        (&["rea"], Code::InsufficientScope),
        (&["READ"], Code::InsufficientScope),
        // Not a scope of the keyspace.
        (&["read", "delete"], Code::InsufficientScope),
    ] {
        let request = VerifyRequest { required_scopes: texts(scopes), cost: Some(0), ..check(&key.secret) };
        assert_eq!(verify(&mut client, request).await.code(), expected, "{scopes:?}");
    }
}

#[tokio::test]
async fn the_environment_is_the_records_and_not_that_of_the_prefix() {
    let server = Setup::new().ready("nora").start();
    let mut client = server.client().await;
    for (environment, prefix) in [("sandbox", "sk_test_"), ("production", "sk_live_")] {
        let request = CreateRequest {
            organization: "acme".into(),
            instance: "main".into(),
            environment: environment.into(),
            ..CreateRequest::default()
        };
        let key = made(create(&mut client, ROOT, request).await);
        assert!(key.secret.starts_with(prefix));
        for asserted in ["sandbox", "production"] {
            let request = VerifyRequest { environment: asserted.into(), ..check(&key.secret) };
            let expected = if asserted == environment { Code::Valid } else { Code::WrongEnvironment };
            assert_eq!(verify(&mut client, request).await.code(), expected);
        }
    }
}

#[tokio::test]
async fn only_a_valid_verdict_updates_the_last_use_and_within_two_seconds() {
    let (_server, mut client) = start().await;
    let unused = made(create(&mut client, ROOT, bound()).await);
    let wrong = VerifyRequest { organization: "other".into(), ..check(&unused.secret) };
    assert_eq!(verify(&mut client, wrong).await.code(), Code::WrongOrganization);
    within(Duration::from_secs(2), "the last use shows", async || {
        let used = made(create(&mut client, ROOT, bound()).await);
        let before = crate::support::grpc::now();
        assert_eq!(verify(&mut client, check(&used.secret)).await.code(), Code::Valid);
        let (after, verified) = (crate::support::grpc::now(), std::time::Instant::now());
        let mut seen = None;
        eventually(Duration::from_secs(30), "the use is shown", async || {
            seen = crate::support::grpc::record(&mut client, &used.id).await.last_used_time;
            seen.is_some()
        })
        .await;
        let shown = crate::support::grpc::micros(seen.unwrap());
        assert!((before - 5_000_000..=after).contains(&shown), "{shown} is not between {before} and {after}");
        verified.elapsed()
    })
    .await;
    assert_eq!(crate::support::grpc::record(&mut client, &unused.id).await.last_used_time, None);
}

#[tokio::test]
async fn a_key_of_the_reserved_keyspace_verifies_like_any_other() {
    let (_server, mut client) = start().await;
    let request = CreateRequest { keyspace: "keyward".into(), ..CreateRequest::default() };
    let service = made(create(&mut client, ROOT, request).await);
    let response = client.verify(with(&service.secret, check(&service.secret))).await.unwrap().into_inner();
    assert_eq!((response.code(), response.keyspace.as_str()), (Code::Valid, "keyward"));
}
