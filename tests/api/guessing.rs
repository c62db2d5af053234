//! Credentials that are not good: counted by client address, told apart from good ones, and never without a trace.

use std::time::Duration;

use keyward::proto::{Code, ListRequest, VerifyRequest};
use serde_json::json;
use tonic::Code as Status;

use crate::support::{
    Reply, Server, Setup,
    grpc::{key, refused, revoke},
    reply,
    server::{ROOT, with},
};

const LIMIT: &str = "[server]\nfailed_authentications = { limit = 5, window = \"60s\" }\n";

async fn list(server: &Server, credential: &str) -> Reply {
    reply(server.rest("GET", "/api/api-keys").bearer_auth(credential)).await
}

/// A number that `/metrics` shows.
async fn metric(server: &Server, line: &str) -> Option<f64> {
    let text = server.rest("GET", "/metrics").send().await.unwrap().text().await.unwrap();
    text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
}

#[tokio::test]
async fn failures_past_the_limit_are_told_to_wait_and_good_callers_never_are() {
    let server = Setup::new().config(LIMIT).start();
    let client = &mut server.client().await;
    let made = key(client, "", "", &[]).await;
    let service = server.create(json!({"keyspace": "keyward", "name": "gateway"})).await;
    let service = service["key"].as_str().unwrap();
    for _ in 0..5 {
        list(&server, "ak_forged").await.refused(401, "malformed");
    }
    let limited = list(&server, "ak_forged").await;
    assert_eq!(limited.refused(429, "rate_limited"), "Rate limit exceeded");
    assert_eq!(limited.number("retry-after"), 1);
    assert_eq!(limited.header("x-ratelimit-limit"), None, "there is no key whose limit this is");
    // The same on the other port, of the same client.
    let refusal = refused(client.list(with("kw_forged", ListRequest::default())).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Status::ResourceExhausted, "RATE_LIMITED"));
    assert!(refusal.retry.is_some_and(|wait| wait <= Duration::from_secs(1)), "{refusal:?}");
    let check = || VerifyRequest { secret: made.secret.clone(), ..VerifyRequest::default() };
    assert_eq!(refused(client.verify(with("kw_forged", check())).await).code, Status::ResourceExhausted);
    let stream = client.verify_stream(with("kw_forged", tokio_stream::empty())).await;
    assert_eq!(refused(stream).code, Status::ResourceExhausted);

    // Whoever shares the address and has a good credential hears nothing of it, known to memory or not.
    list(&server, ROOT).await.good(200);
    let fresh = key(client, "", "", &[]).await;
    reply(server.rest("GET", "/api/v1/keys").bearer_auth(&fresh.secret)).await.good(200);
    assert_eq!(client.verify(with(service, check())).await.unwrap().into_inner().code(), Code::Valid);
    // Who tries nothing does not fail.
    reply(server.rest("GET", "/api/api-keys")).await.refused(401, "missing_credential");
    assert_eq!(
        refused(client.list(ListRequest::default()).await).code,
        Status::Unauthenticated,
        "no credential is no failure"
    );
    // Going on makes the wait longer.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(list(&server, "ak_forged").await.number("retry-after"), 2);

    assert_eq!(metric(&server, "keyward_failed_authentications_total{outcome=\"refused\"}").await, Some(5.0));
    assert_eq!(metric(&server, "keyward_failed_authentications_total{outcome=\"limited\"}").await, Some(5.0));
}

/// What a service asks about is not what it proves itself by.
#[tokio::test]
async fn forged_keys_that_a_service_checks_are_no_failures() {
    let server = Setup::new().config(LIMIT).start();
    let client = &mut server.client().await;
    for n in 0..50 {
        let request = VerifyRequest { secret: format!("ak_forged{n}"), ..VerifyRequest::default() };
        let verdict = client.verify(with(ROOT, request)).await.unwrap().into_inner();
        assert_eq!(verdict.code(), Code::Malformed);
        let (status, verdict) = server.call("POST", "/api/v1/verify", Some(ROOT), json!({"secret": "ak_forged"})).await;
        assert_eq!((status, &verdict["code"]), (200, &json!("MALFORMED")));
    }
    assert_eq!(metric(&server, "keyward_failed_authentications_total{outcome=\"refused\"}").await, Some(0.0));
}

#[tokio::test]
async fn each_client_behind_a_trusted_proxy_fails_for_itself() {
    let proxies = "[http]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let server = Setup::new().config(LIMIT).and(proxies).start();
    let fail = async |client: &str| {
        let request = server.rest("GET", "/api/api-keys").bearer_auth("ak_forged").header("x-forwarded-for", client);
        reply(request).await.status
    };
    for _ in 0..5 {
        assert_eq!(fail("198.51.100.1").await, 401);
    }
    assert_eq!(fail("198.51.100.1").await, 429);
    assert_eq!(fail("198.51.100.2").await, 401);
    // IPv6 by its network: one client has all of it.
    for n in 0..5 {
        assert_eq!(fail(&format!("2001:db8::{n}")).await, 401);
    }
    assert_eq!(fail("2001:db8::ffff").await, 429);
    assert_eq!(fail("2001:db8:0:1::1").await, 401);
}

/// Who was refused, and from where, is in the log: on both ports, for checks too.
#[tokio::test]
async fn a_refusal_names_the_key_that_was_presented_and_the_client() {
    let server = Setup::new().start();
    let client = &mut server.client().await;
    let dead = key(client, "", "", &[]).await;
    let product = key(client, "", "", &[]).await;
    revoke(client, &dead.id).await;
    let line = |call: &str, transport: &str, outcome: &str, key: &str| {
        format!(
            "call=\"{call}\" transport=\"{transport}\" outcome=\"{outcome}\" caller=\"\" actor=\"\" key=\"{key}\" client=\"127.0.0.1\""
        )
    };
    list(&server, &dead.secret).await.refused(401, "revoked");
    server.logged(&line("list", "rest", "REVOKED", &dead.id)).await;
    refused(client.list(with(&dead.secret, ListRequest::default())).await);
    server.logged(&line("list", "grpc", "REVOKED", &dead.id)).await;
    refused(client.verify(with(&dead.secret, VerifyRequest::default())).await);
    server.logged(&line("verify", "grpc", "REVOKED", &dead.id)).await;
    refused(client.verify(with(&product.secret, VerifyRequest::default())).await);
    server.logged(&line("verify", "grpc", "FORBIDDEN", &product.id)).await;
    refused(client.verify_stream(with("kw_forged", tokio_stream::empty())).await);
    server.logged(&line("verify_stream", "grpc", "MALFORMED", "")).await;
    // A caller that is known and may not is named as such.
    refused(client.list(with(&product.secret, ListRequest::default())).await);
    server.logged(&format!("caller=\"key\" actor=\"key:{}\"", product.id)).await;
    assert!(!server.log().contains(&dead.secret) && !server.log().contains("kw_forged"));
}
