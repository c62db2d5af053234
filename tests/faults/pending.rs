//! A revocation that is committed but not acknowledged by every replica, because one of them is suspended.

use std::time::{Duration, Instant};

use keyward::proto::{Code, RevokeRequest};
use serde_json::{Value, json};

use crate::{
    postgres::fresh_database,
    support::{
        Server, Setup,
        grpc::{Client, Refusal, code, eventually, key},
        server::{ROOT, with},
    },
};

/// Two replicas on one database.
async fn two_replicas(lease: &str) -> (Server, Client, Server, Client) {
    let url = fresh_database().await;
    let setup = || Setup::new().database(&url).env("KEYWARD_REPLICA_LEASE", lease);
    let (first, second) = (setup().start(), setup().start());
    let (one, two) = (first.client().await, second.client().await);
    (first, one, second, two)
}

fn revoke_within(id: &str, timeout: Duration) -> tonic::Request<RevokeRequest> {
    let mut request = with(ROOT, RevokeRequest { id: id.into(), reason: "stolen".into() });
    request.set_timeout(timeout);
    request
}

/// A suspended replica may resume and answer from memory. Until its lease has expired, Revoke must not return OK.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_pending_while_a_replica_is_suspended_and_complete_once_its_lease_has_expired() {
    let (_first, mut one, second, mut two) = two_replicas("5s").await;
    let made = key(&mut one, "", "", &[]).await;
    assert_eq!(code(&mut two, &made.secret).await, Code::Valid);
    second.signal("STOP");
    let start = Instant::now();
    let refusal = loop {
        let refusal = Refusal::of(&one.revoke(revoke_within(&made.id, Duration::from_secs(1))).await.unwrap_err());
        // On a busy machine the client's own timer may fire before the server's response arrives.
        if refusal.code != tonic::Code::Cancelled {
            break refusal;
        }
    };
    assert_eq!((refusal.code, refusal.reason.as_str()), (tonic::Code::DeadlineExceeded, "REVOCATION_PENDING"));
    assert_eq!(code(&mut one, &made.secret).await, Code::Revoked, "it is committed");
    let revoked = one.revoke(revoke_within(&made.id, Duration::from_secs(12))).await.unwrap().into_inner().key.unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(revoked.revoke_reason, "stolen");
    second.signal("CONT");
    eventually(Duration::from_secs(10), "the second replica answers again", async || {
        match two.verify(with(ROOT, crate::support::grpc::check(&made.secret))).await {
            Ok(answer) => {
                assert_eq!(answer.into_inner().code(), Code::Revoked);
                true
            }
            Err(_) => false,
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_revocation_is_503_over_rest_and_can_be_repeated() {
    let (first, mut one, second, mut two) = two_replicas("20s").await;
    let made = key(&mut one, "", "", &[]).await;
    assert_eq!(code(&mut two, &made.secret).await, Code::Valid);
    second.signal("STOP");
    let path = format!("/api/api-keys/{}", made.id);
    let answer = first.rest("DELETE", &path).bearer_auth(ROOT).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 503);
    assert!(answer.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    let body: Value = answer.json().await.unwrap();
    assert_eq!((&body["error"], &body["code"]), (&json!("Service Unavailable"), &json!("revocation_pending")));
    second.signal("CONT");
    eventually(Duration::from_secs(10), "the revocation can be repeated", async || {
        first.call("DELETE", &path, Some(ROOT), Value::Null).await.0 == 200
    })
    .await;
    for client in [&mut one, &mut two] {
        assert_eq!(code(client, &made.secret).await, Code::Revoked);
    }
}

/// The key is revoked from the first call on, and its holder can still repeat the call until the revocation is complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_can_repeat_its_own_pending_revocation_by_its_id() {
    let url = fresh_database().await;
    let setup = || Setup::new().ready("norrix").database(&url).env("KEYWARD_REPLICA_LEASE", "20s");
    let (first, second) = (setup().start(), setup().start());
    let (mut one, mut two) = (first.client().await, second.client().await);
    let made = key(&mut one, "norrix", "acme", &["admin"]).await;
    let other = key(&mut one, "norrix", "acme", &["admin"]).await;
    assert_eq!(code(&mut two, &made.secret).await, Code::Valid);
    second.signal("STOP");
    let path = |id: &str| format!("/api/api-keys/{id}");
    let (status, body) = first.call("DELETE", &path(&made.id), Some(&made.secret), Value::Null).await;
    assert_eq!((status, &body["code"]), (503, &json!("revocation_pending")));
    // For any other call the key is revoked already.
    let (status, body) = first.call("DELETE", &path(&other.id), Some(&made.secret), Value::Null).await;
    assert_eq!((status, &body["code"]), (401, &json!("revoked")));
    second.signal("CONT");
    eventually(Duration::from_secs(10), "the holder learns that the revocation is complete", async || {
        first.call("DELETE", &path(&made.id), Some(&made.secret), Value::Null).await.0 == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_one_replica_creates_and_revokes_are_valid_and_revoked_on_the_other_at_once() {
    let (_first, one, _second, two) = two_replicas("3s").await;
    let mut clients = [one, two];
    for round in 0..20 {
        let (here, there) = (round % 2, (round + 1) % 2);
        let made = key(&mut clients[here], "", "", &[]).await;
        assert_eq!(code(&mut clients[there], &made.secret).await, Code::Valid);
        clients[here].revoke(with(ROOT, RevokeRequest { id: made.id, reason: String::new() })).await.unwrap();
        assert_eq!(code(&mut clients[there], &made.secret).await, Code::Revoked);
        assert_eq!(code(&mut clients[here], &made.secret).await, Code::Revoked);
    }
}
