//! The same calls have the same results on Postgres and on embedded SQLite.

use std::time::Duration;

use keyward::proto::{Code, CreateRequest, KeyStatus, ListRequest, RevokeRequest, UpdateWebhookRequest, VerifyRequest};
use serde_json::{Value, json};

use crate::{
    postgres::fresh_database,
    support::{
        Setup,
        grpc::{assert_refused, check, code, create, eventually, key, list, record, texts, ttl, until_expired, verify},
        server::{ROOT, with},
    },
};

/// Creates, verifies, lists, changes and revokes keys. Every backend must give the same results.
async fn run_all_calls(setup: Setup) {
    let server = setup.ready("all").start();
    let mut client = server.client().await;
    let request = CreateRequest {
        keyspace: "norrix".into(),
        organization: "Ácme 鍵".into(),
        name: "ci 🔑".into(),
        scopes: texts(&["build", "admin"]),
        webhook_url: "https://example.com/h".into(),
        metadata: [("clé".to_owned(), "\"'\\; DROP TABLE keys --".to_owned())].into(),
        ..CreateRequest::default()
    };
    let response = create(&mut client, ROOT, request.clone()).await;
    let admin = response.key.unwrap();
    assert_eq!((admin.organization.as_str(), admin.name.as_str()), ("Ácme 鍵", "ci 🔑"));
    assert_eq!(admin.metadata, request.metadata);
    assert_eq!(record(&mut client, &admin.id).await, admin);
    let check_own =
        VerifyRequest {
            organization: "Ácme 鍵".into(), required_scopes: texts(&["build"]), ..check(&response.secret)
        };
    assert_eq!(verify(&mut client, check_own.clone()).await.metadata, request.metadata);
    for (wrong, expected) in [
        (VerifyRequest { organization: "ácme 鍵".into(), ..check_own.clone() }, Code::WrongOrganization),
        (VerifyRequest { required_scopes: texts(&["submit"]), ..check_own.clone() }, Code::InsufficientScope),
        (VerifyRequest { keyspace: "noro".into(), ..check_own.clone() }, Code::NotFound),
    ] {
        assert_eq!(verify(&mut client, wrong).await.code(), expected);
    }
    eventually(Duration::from_secs(2), "the use is shown", async || {
        record(&mut client, &admin.id).await.last_used_time.is_some()
    })
    .await;

    let own = crate::support::grpc::made(create(&mut client, &response.secret, CreateRequest::default()).await);
    key(&mut client, "norrix", "acme", &[]).await;
    let mut ids: Vec<_> = list(&mut client, &response.secret, ListRequest { page_size: 1, ..Default::default() }).await;
    ids.reverse();
    assert_eq!(ids.iter().map(|key| &key.id).collect::<Vec<_>>(), [&admin.id, &own.id]);

    let patch =
        UpdateWebhookRequest { id: own.id.clone(), webhook_url: "https://example.com/x".into(), ..Default::default() };
    let updated = client.update_webhook(with(ROOT, patch.clone())).await.unwrap().into_inner();
    assert!(updated.webhook_secret.starts_with("whsec_"));
    let end = RevokeRequest { id: own.id.clone(), reason: "left".into() };
    let revoked = client.revoke(with(&response.secret, end.clone())).await.unwrap().into_inner().key.unwrap();
    assert_eq!((revoked.status(), revoked.revoked_by), (KeyStatus::Revoked, format!("key:{}", admin.id)));
    assert_eq!(code(&mut client, &own.secret).await, Code::Revoked);
    assert_refused(client.update_webhook(with(ROOT, patch)).await, tonic::Code::FailedPrecondition, "CONFLICT");

    let short =
        CreateRequest { keyspace: "noro".into(), expiry: ttl(Duration::from_millis(300)), ..Default::default() };
    let short = crate::support::grpc::made(create(&mut client, ROOT, short).await);
    until_expired(&mut client, &short.secret).await;
    let expired = ListRequest { status: KeyStatus::Expired.into(), ..ListRequest::default() };
    assert_eq!(list(&mut client, ROOT, expired).await.len(), 1);

    // A caller without a credential creates a key over REST, uses it and revokes it.
    let (status, made) = server.call("POST", "/api/v1/keys", None, json!({"webhook": "https://example.com/n"})).await;
    assert_eq!(status, 201, "{made}");
    let secret = made["key"].as_str().unwrap();
    let (status, own) = server.call("GET", "/api/v1/keys", Some(secret), Value::Null).await;
    assert_eq!((status, &own["status"]), (200, &json!("active")));
    let (status, updated) = server.call("PATCH", "/api/v1/keys", Some(secret), json!({"webhook": ""})).await;
    assert_eq!((status, &updated["webhook"]), (200, &Value::Null));
    let (status, gone) = server.call("DELETE", "/api/v1/keys", Some(secret), Value::Null).await;
    assert_eq!((status, gone), (200, json!({"revoked": true})));
    let (status, _) = server.call("GET", "/api/v1/keys", Some(secret), Value::Null).await;
    assert_eq!(status, 401);
    let (status, verdict) = server.call("POST", "/api/v1/verify", Some(ROOT), json!({"secret": secret})).await;
    assert_eq!((status, &verdict["code"]), (200, &json!("REVOKED")));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_calls_have_the_expected_results_on_postgres() {
    run_all_calls(Setup::new().database(&fresh_database().await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_calls_have_the_expected_results_on_sqlite() {
    run_all_calls(Setup::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_keys_survive_a_kill_and_a_restart_on_postgres() {
    let url = fresh_database().await;
    let first = Setup::new().database(&url).start();
    let mut client = first.client().await;
    let (kept, ended) = (key(&mut client, "", "", &[]).await, key(&mut client, "", "", &[]).await);
    client.revoke(with(ROOT, RevokeRequest { id: ended.id, reason: String::new() })).await.unwrap();
    drop(first);
    let second = Setup::new().database(&url).start();
    let mut client = second.client().await;
    assert_eq!(code(&mut client, &kept.secret).await, Code::Valid);
    assert_eq!(code(&mut client, &ended.secret).await, Code::Revoked);
}
