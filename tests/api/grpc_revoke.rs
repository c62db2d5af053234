//! Revoke and UpdateWebhook.

use std::time::Duration;

use futures::future::join_all;
use keyward::proto::{Code, CreateRequest, KeyStatus, RevokeRequest, UpdateWebhookRequest, UpdateWebhookResponse};
use tonic::Code::FailedPrecondition;

use crate::support::{
    Setup,
    grpc::{Client, assert_refused, code, create, key, made, micros, now, record, revoke, ttl, until_expired},
    server::{ROOT, with},
};

fn revoke_request(id: &str, reason: &str) -> RevokeRequest {
    RevokeRequest { id: id.into(), reason: reason.into() }
}

async fn set_webhook(client: &mut Client, id: &str, url: &str) -> UpdateWebhookResponse {
    let request = UpdateWebhookRequest { id: id.into(), webhook_url: url.into(), ..Default::default() };
    client.update_webhook(with(ROOT, request)).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_revoked_key_records_when_why_and_by_whom_and_keeps_its_other_fields() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let made = key(&mut client, "", "acme", &["read"]).await;
    let before = now();
    let revoked =
        client.revoke(with(ROOT, revoke_request(&made.id, "stolen"))).await.unwrap().into_inner().key.unwrap();
    assert!((before..=now()).contains(&micros(revoked.revoke_time.unwrap())));
    let expected = keyward::proto::Key {
        status: KeyStatus::Revoked.into(),
        revoke_time: revoked.revoke_time,
        revoke_reason: "stolen".into(),
        revoked_by: "root".into(),
        ..made.key
    };
    assert_eq!(revoked, expected);
    assert_eq!(record(&mut client, &made.id).await, expected);
    assert_eq!(code(&mut client, &made.secret).await, Code::Revoked);
}

#[tokio::test]
async fn revoking_again_returns_the_key_unchanged() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let operator = key(&mut client, "keyward", "", &["root"]).await;
    let made = key(&mut client, "", "", &[]).await;
    let first = client.revoke(with(ROOT, revoke_request(&made.id, "first"))).await.unwrap().into_inner().key;
    for reason in ["second", ""] {
        let again =
            client.revoke(with(&operator.secret, revoke_request(&made.id, reason))).await.unwrap().into_inner().key;
        assert_eq!(again, first);
    }
}

#[tokio::test]
async fn one_of_many_concurrent_revokes_takes_effect_and_all_return_the_same_record() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let made = key(&mut client, "", "", &[]).await;
    let calls =
        (0..20).map(|number| {
            let (mut client, id) = (client.clone(), made.id.clone());
            async move {
                client.revoke(with(ROOT, revoke_request(&id, &number.to_string()))).await.unwrap().into_inner().key
            }
        });
    let mut answers = join_all(calls).await;
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(code(&mut client, &made.secret).await, Code::Revoked);
}

/// No Verify that starts after Revoke has returned may answer VALID, even while many are in flight.
#[tokio::test]
async fn no_verify_that_starts_after_revoke_returned_is_valid() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    for _ in 0..20 {
        let made = key(&mut client, "", "", &[]).await;
        let hammer = |mut client: Client, secret: String| async move {
            while code(&mut client, &secret).await == Code::Valid {}
        };
        let hammers: Vec<_> = (0..4).map(|_| tokio::spawn(hammer(client.clone(), made.secret.clone()))).collect();
        revoke(&mut client, &made.id).await;
        for _ in 0..5 {
            assert_eq!(code(&mut client, &made.secret).await, Code::Revoked);
        }
        for hammer in hammers {
            hammer.await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_expired_key_can_be_revoked_and_then_verifies_as_revoked() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let request = CreateRequest { expiry: ttl(Duration::from_millis(200)), ..CreateRequest::default() };
    let made = made(create(&mut client, ROOT, request).await);
    until_expired(&mut client, &made.secret).await;
    assert_eq!(revoke(&mut client, &made.id).await.status(), KeyStatus::Revoked);
    assert_eq!(code(&mut client, &made.secret).await, Code::Revoked);
}

#[tokio::test]
async fn the_webhook_secret_is_returned_only_when_a_url_is_first_set() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let made = key(&mut client, "", "", &[]).await;
    assert_eq!(set_webhook(&mut client, &made.id, "").await.webhook_secret, "", "there was none to remove");
    let first = set_webhook(&mut client, &made.id, "https://example.com/a").await;
    assert!(first.webhook_secret.starts_with("whsec_") && first.webhook_secret.len() > 30);
    assert_eq!(first.key.unwrap().webhook_url, "https://example.com/a");
    for url in ["https://example.com/b", "", "https://example.com/c"] {
        let again = set_webhook(&mut client, &made.id, url).await;
        assert_eq!((again.webhook_secret.as_str(), again.key.unwrap().webhook_url.as_str()), ("", url));
        assert_eq!(record(&mut client, &made.id).await.webhook_url, url);
    }
    let with_hook = CreateRequest { webhook_url: "https://example.com/d".into(), ..CreateRequest::default() };
    let created = create(&mut client, ROOT, with_hook).await;
    assert!(created.webhook_secret.starts_with("whsec_"));
    assert_ne!(created.webhook_secret, first.webhook_secret, "each key has its own");
    assert_eq!(set_webhook(&mut client, &created.key.unwrap().id, "https://example.com/e").await.webhook_secret, "");
}

#[tokio::test]
async fn the_webhook_of_a_revoked_or_expired_key_cannot_be_changed() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let revoked = key(&mut client, "", "", &[]).await;
    revoke(&mut client, &revoked.id).await;
    let request = CreateRequest {
        expiry: ttl(Duration::from_millis(300)),
        webhook_url: "https://example.com/".into(),
        ..CreateRequest::default()
    };
    let expired = made(create(&mut client, ROOT, request).await);
    until_expired(&mut client, &expired.secret).await;
    for id in [&revoked.id, &expired.id] {
        let before = record(&mut client, id).await;
        for url in ["https://example.com/x", ""] {
            let request = UpdateWebhookRequest { id: id.clone(), webhook_url: url.into(), ..Default::default() };
            let answer = client.update_webhook(with(ROOT, request)).await;
            assert_refused(answer, FailedPrecondition, "CONFLICT");
        }
        assert_eq!(record(&mut client, id).await, before);
    }
}
