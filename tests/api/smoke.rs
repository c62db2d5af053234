//! The shortest scenario: create, verify, revoke.

use keyward::proto::{Code, CreateRequest, RevokeRequest, VerifyRequest};

use crate::support::{
    Setup,
    server::{ROOT, with},
};

#[tokio::test]
async fn a_key_is_valid_once_it_is_created_and_revoked_once_revoke_returns() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let request = CreateRequest { name: "first".into(), ..CreateRequest::default() };
    let created = client.create(with(ROOT, request)).await.unwrap().into_inner();
    let check = VerifyRequest { secret: created.secret.clone(), ..VerifyRequest::default() };
    let verdict = client.verify(with(ROOT, check.clone())).await.unwrap().into_inner();
    assert_eq!(verdict.code(), Code::Valid);
    let id = created.key.unwrap().id;
    assert_eq!(verdict.key_id, id);
    client.revoke(with(ROOT, RevokeRequest { id, reason: "test".into() })).await.unwrap();
    let verdict = client.verify(with(ROOT, check)).await.unwrap().into_inner();
    assert_eq!(verdict.code(), Code::Revoked);
}
