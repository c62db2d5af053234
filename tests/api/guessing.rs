//! Invalid credentials: counted by client address, without effect on valid ones, and always logged.

use std::time::{Duration, Instant};

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

/// The first wait of a client that has failed too often.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Tries until one is done within [`FIRST_WAIT`]; a busy machine may take longer.
const ATTEMPTS: u32 = 20;

#[tokio::test]
async fn failures_past_the_limit_have_to_wait_and_valid_callers_do_not() {
    for _ in 0..ATTEMPTS {
        if failures_past_the_limit().await {
            return;
        }
    }
    panic!("each of {ATTEMPTS} attempts took longer than the first wait");
}

/// Returns false if the calls within the first wait took longer than the wait.
async fn failures_past_the_limit() -> bool {
    let server = Setup::new().config(LIMIT).start();
    let client = &mut server.client().await;
    let made = key(client, "", "", &[]).await;
    let service = server.create(json!({"keyspace": "keyward", "name": "gateway"})).await;
    let service = service["key"].as_str().unwrap();
    for _ in 0..5 {
        list(&server, "ak_forged").await.refused(401, "malformed");
    }
    let start = Instant::now();
    let limited = list(&server, "ak_forged").await;
    assert_eq!(limited.refused(429, "rate_limited"), "Rate limit exceeded");
    assert_eq!(limited.number("retry-after"), 1);
    assert_eq!(limited.header("x-ratelimit-limit"), None, "there is no key whose limit this is");
    // The limit also applies to the same client on the other port.
    let refusal = refused(client.list(with("kw_forged", ListRequest::default())).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Status::ResourceExhausted, "RATE_LIMITED"));
    if start.elapsed() >= FIRST_WAIT {
        return false;
    }
    assert!(refusal.retry.is_some_and(|wait| wait <= FIRST_WAIT), "{refusal:?}");
    let check = || VerifyRequest { secret: made.secret.clone(), ..VerifyRequest::default() };
    assert_eq!(refused(client.verify(with("kw_forged", check())).await).code, Status::ResourceExhausted);
    let stream = client.verify_stream(with("kw_forged", tokio_stream::empty())).await;
    assert_eq!(refused(stream).code, Status::ResourceExhausted);
    if start.elapsed() >= FIRST_WAIT {
        return false;
    }

    // Valid credentials from the same address are accepted, cached or not.
    list(&server, ROOT).await.good(200);
    let fresh = key(client, "", "", &[]).await;
    reply(server.rest("GET", "/api/v1/keys").bearer_auth(&fresh.secret)).await.good(200);
    assert_eq!(client.verify(with(service, check())).await.unwrap().into_inner().code(), Code::Valid);
    // A request without a credential is not a failure.
    reply(server.rest("GET", "/api/api-keys")).await.refused(401, "missing_credential");
    assert_eq!(
        refused(client.list(ListRequest::default()).await).code,
        Status::Unauthenticated,
        "no credential is no failure"
    );
    // Further failures lengthen the wait.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(list(&server, "ak_forged").await.number("retry-after"), 2);

    assert_eq!(metric(&server, "keyward_failed_authentications_total{outcome=\"refused\"}").await, Some(5.0));
    assert_eq!(metric(&server, "keyward_failed_authentications_total{outcome=\"limited\"}").await, Some(5.0));
    true
}

/// A service that checks a forged key has a valid credential itself.
#[tokio::test]
async fn checks_of_forged_keys_do_not_count_as_failures_of_the_service() {
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
async fn failures_behind_a_trusted_proxy_are_counted_for_each_client() {
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
    // An IPv6 /64 network counts as one client.
    for n in 0..5 {
        assert_eq!(fail(&format!("2001:db8::{n}")).await, 401);
    }
    assert_eq!(fail("2001:db8::ffff").await, 429);
    assert_eq!(fail("2001:db8:0:1::1").await, 401);
}

/// The log names the caller and the address of each refusal, on both ports and also for checks.
#[tokio::test]
async fn the_log_line_of_a_refusal_names_the_presented_key_and_the_client() {
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
    // An authenticated caller without permission is named as the actor.
    refused(client.list(with(&product.secret, ListRequest::default())).await);
    server.logged(&format!("caller=\"key\" actor=\"key:{}\"", product.id)).await;
    assert!(!server.log().contains(&dead.secret) && !server.log().contains("kw_forged"));
}
