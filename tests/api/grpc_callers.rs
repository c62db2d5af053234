//! Which caller may make which call: operators, services and keys without rights.

use std::time::Duration;

use keyward::proto::{
    Code, CreateRequest, ListRequest, ListResponse, RevokeRequest, UpdateWebhookRequest, VerifyRequest,
    VerifyStreamRequest,
};
use tonic::{Request, Response, Status, metadata::MetadataValue};

use crate::support::{
    Setup,
    grpc::{
        Client, Refusal, assert_refused, check, code, create, forged, key, list, made, record, refused, revoke, texts,
        ttl,
    },
    server::{ROOT, with},
};

/// Adds metadata to a request.
type Dress<'a> = &'a dyn Fn(&mut tonic::metadata::MetadataMap);

/// Calls every RPC with a valid message and some metadata, and returns the results.
async fn every_call(client: &mut Client, id: &str, dress: Dress<'_>) -> Vec<(&'static str, Result<(), Status>)> {
    fn dressed<T>(message: T, dress: Dress<'_>) -> Request<T> {
        let mut request = Request::new(message);
        dress(request.metadata_mut());
        request
    }
    fn unit<T>(answer: Result<Response<T>, Status>) -> Result<(), Status> {
        answer.map(drop)
    }
    let create = CreateRequest { organization: "acme".into(), ..CreateRequest::default() };
    let revoke = RevokeRequest { id: id.into(), reason: String::new() };
    let hook = UpdateWebhookRequest { id: id.into(), webhook_url: "https://example.com/".into(), ..Default::default() };
    let stream = tokio_stream::iter([VerifyStreamRequest { id: 1, request: Some(check("x")) }]);
    vec![
        ("Create", unit(client.create(dressed(create, dress)).await)),
        ("List", unit(client.list(dressed(ListRequest::default(), dress)).await)),
        ("Verify", unit(client.verify(dressed(check("x"), dress)).await)),
        ("VerifyStream", unit(client.verify_stream(dressed(stream, dress)).await)),
        ("UpdateWebhook", unit(client.update_webhook(dressed(hook, dress)).await)),
        ("Revoke", unit(client.revoke(dressed(revoke, dress)).await)),
    ]
}

fn bearer(credential: &str) -> impl Fn(&mut tonic::metadata::MetadataMap) {
    let value: MetadataValue<_> = format!("Bearer {credential}").parse().unwrap();
    move |metadata| {
        metadata.insert("authorization", value.clone());
    }
}

/// Access to the port must not give access to a key: only health and reflection answer without a credential.
#[tokio::test]
async fn every_call_needs_a_credential() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let made = key(&mut client, "", "", &[]).await;
    let other_header = made.secret.clone();
    let dresses: [Dress<'_>; 6] = [
        &|_| {},
        &|metadata| drop(metadata.insert("authorization", "".parse().unwrap())),
        &|metadata| drop(metadata.insert("authorization", "Bearer".parse().unwrap())),
        &|metadata| drop(metadata.insert("authorization", "Bearer  ".parse().unwrap())),
        &|metadata| drop(metadata.insert("authorization", format!("Basic {ROOT}").parse().unwrap())),
        // gRPC reads only the authorization header, whatever header the keyspace uses over REST.
        &|metadata| drop(metadata.insert("x-api-key", other_header.parse().unwrap())),
    ];
    for dress in dresses {
        for (call, answer) in every_call(&mut client, &made.id, dress).await {
            let refusal = Refusal::of(&answer.expect_err(call));
            assert_eq!((refusal.code, refusal.domain.as_str()), (tonic::Code::Unauthenticated, "keyward"), "{call}");
            assert_eq!(refusal.reason, "MISSING_CREDENTIAL", "{call}");
            assert_eq!(refusal.message, "No authentication provided", "{call}");
        }
    }
    assert_eq!(code(&mut client, &made.secret).await, Code::Valid, "nothing was done");
}

#[tokio::test]
async fn an_invalid_credential_is_unauthenticated_with_its_verdict_as_the_reason() {
    let server = Setup::new().start();
    let elsewhere = Setup::new().start();
    let mut client = server.client().await;
    let target = key(&mut client, "", "", &[]).await;
    let root = |life: Option<Duration>| CreateRequest {
        keyspace: "keyward".into(),
        scopes: texts(&["root"]),
        expiry: life.and_then(ttl),
        ..CreateRequest::default()
    };
    let operator = made(create(&mut client, ROOT, root(None)).await);
    let expired = made(create(&mut client, ROOT, root(Some(Duration::from_millis(200)))).await);
    crate::support::grpc::until_expired(&mut client, &expired.secret).await;
    let revoked = made(create(&mut client, ROOT, root(None)).await);
    revoke(&mut client, &revoked.id).await;
    let foreign = made(create(&mut elsewhere.client().await, ROOT, root(None)).await);
    for (credential, reason) in [
        ("nonsense", "MALFORMED"),
        (&format!("{ROOT}x"), "MALFORMED"),
        (&ROOT[1..], "MALFORMED"),
        (&forged(&operator.secret), "MALFORMED"),
        // A key of another installation: its checksum depends on that installation's master key.
        (&foreign.secret, "MALFORMED"),
        (&expired.secret, "EXPIRED"),
        (&revoked.secret, "REVOKED"),
    ] {
        for (call, answer) in every_call(&mut client, &target.id, &bearer(credential)).await {
            let refusal = Refusal::of(&answer.expect_err(call));
            let seen = (refusal.code, refusal.reason.as_str(), refusal.message.as_str());
            assert_eq!(seen, (tonic::Code::Unauthenticated, reason, "Invalid or expired API key"), "{call}");
        }
    }
}

#[tokio::test]
async fn two_credentials_are_refused() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let made = key(&mut client, "", "", &[]).await;
    let twice = |metadata: &mut tonic::metadata::MetadataMap| {
        for _ in 0..2 {
            metadata.append("authorization", format!("Bearer {ROOT}").parse().unwrap());
        }
    };
    for (call, answer) in every_call(&mut client, &made.id, &twice).await {
        assert_eq!(answer.expect_err(call).code(), tonic::Code::InvalidArgument, "{call}");
    }
}

#[tokio::test]
async fn the_authorization_scheme_is_case_insensitive() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    for scheme in ["bearer", "BEARER", "Bearer "] {
        let mut request = Request::new(ListRequest::default());
        request.metadata_mut().insert("authorization", format!("{scheme} {ROOT}").parse().unwrap());
        client.list(request).await.unwrap();
    }
}

#[tokio::test]
async fn a_root_key_may_do_everything_and_is_recorded_by_its_id() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let operator = key(&mut client, "keyward", "", &["root"]).await;
    assert_eq!(operator.key.created_by, "root");
    let target = key(&mut client, "", "acme", &[]).await;
    for (call, answer) in every_call(&mut client, &target.id, &bearer(&operator.secret)).await {
        answer.expect(call);
    }
    let by = format!("key:{}", operator.id);
    let record = record(&mut client, &target.id).await;
    assert_eq!((record.created_by.as_str(), record.revoked_by.as_str()), ("root", by.as_str()));
    let request = ListRequest { created_by: by.clone(), ..ListRequest::default() };
    assert_eq!(list(&mut client, &operator.secret, request).await.len(), 1);
}

#[tokio::test]
async fn the_first_start_without_a_root_credential_prints_a_root_key_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Setup::new().without_root().folder(folder.path()).start();
    let output = server.output();
    let root = output.split_whitespace().find(|word| word.starts_with("kw_")).expect("a root key").to_owned();
    let mut client = server.client().await;
    let created = created_by(&mut client, &root).await;
    assert!(created.starts_with("key:key_"), "{created}");
    // The root credential of another installation is not valid here.
    assert_refused(client.list(with(ROOT, ListRequest::default())).await, tonic::Code::Unauthenticated, "MALFORMED");
    server.stop();
    let again = Setup::new().without_root().folder(folder.path()).start();
    assert!(!again.output().contains("kw_"), "{}", again.output());
    created_by(&mut again.client().await, &root).await;
}

async fn created_by(client: &mut Client, credential: &str) -> String {
    made(create(client, credential, CreateRequest::default()).await).key.created_by
}

/// A service's credential is on many machines: with a stolen one nobody must create, read or revoke a key.
#[tokio::test]
async fn a_service_key_may_verify_and_nothing_else() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let service = key(&mut client, "keyward", "", &["verify"]).await;
    let target = key(&mut client, "", "acme", &[]).await;
    for (call, answer) in every_call(&mut client, &target.id, &bearer(&service.secret)).await {
        if call.starts_with("Verify") {
            answer.expect(call);
        } else {
            let refusal = Refusal::of(&answer.expect_err(call));
            assert_eq!((refusal.code, refusal.reason.as_str()), (tonic::Code::PermissionDenied, "FORBIDDEN"), "{call}");
        }
    }
    assert_eq!(code(&mut client, &target.secret).await, Code::Valid);
    assert_refused(
        client.revoke(with(&service.secret, RevokeRequest { id: service.id.clone(), reason: String::new() })).await,
        tonic::Code::PermissionDenied,
        "FORBIDDEN",
    );
}

/// Customers hold the keys of a product: such a key must manage nothing, not even itself, and verify no secret.
#[tokio::test]
async fn a_key_without_the_admin_scope_may_call_nothing_over_grpc() {
    let server = Setup::new().ready("all").start();
    let mut client = server.client().await;
    let norrix = key(&mut client, "norrix", "acme", &["build"]).await;
    let noro = key(&mut client, "noro", "", &[]).await;
    let nora = CreateRequest {
        keyspace: "nora".into(),
        organization: "acme".into(),
        instance: "main".into(),
        environment: "sandbox".into(),
        // With free-form scopes, the name of a scope alone gives no right.
        scopes: texts(&["admin", "root", "verify"]),
        ..CreateRequest::default()
    };
    let nora = made(create(&mut client, ROOT, nora).await);
    for (own, reason) in [(&norrix, "INSUFFICIENT_SCOPE"), (&noro, "FORBIDDEN"), (&nora, "FORBIDDEN")] {
        for (call, answer) in every_call(&mut client, &own.id, &bearer(&own.secret)).await {
            let refusal = Refusal::of(&answer.expect_err(call));
            assert_eq!(refusal.code, tonic::Code::PermissionDenied, "{call} {refusal:?}");
            let expected = if call.starts_with("Verify") { "FORBIDDEN" } else { reason };
            assert_eq!(refusal.reason, expected, "{call} {refusal:?}");
        }
        assert_eq!(code(&mut client, &own.secret).await, Code::Valid);
    }
}

/// A keyspace with public creation over REST must not allow it over gRPC, where creations are not counted per client
/// address.
#[tokio::test]
async fn public_creation_is_not_available_over_grpc() {
    let server = Setup::new().ready("noro").start();
    let mut client = server.client().await;
    let request = || CreateRequest { keyspace: "noro".into(), ..CreateRequest::default() };
    assert_refused(client.create(request()).await, tonic::Code::Unauthenticated, "MISSING_CREDENTIAL");
    let own = made(create(&mut client, ROOT, request()).await);
    let refusal = refused(client.create(with(&own.secret, request())).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (tonic::Code::PermissionDenied, "FORBIDDEN"));
    // The caller's rights are checked before the fields.
    let bad = CreateRequest { name: "\0".into(), ..request() };
    assert_refused(client.create(with(&own.secret, bad)).await, tonic::Code::PermissionDenied, "FORBIDDEN");
}

/// Only a key of the reserved keyspace is an operator, whatever the scopes of other keyspaces are called.
#[tokio::test]
async fn a_root_scope_of_another_keyspace_does_not_make_an_operator() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let pretender = key(&mut client, "", "", &["root", "verify", "admin"]).await;
    assert_refused(
        client.list(with(&pretender.secret, ListRequest::default())).await,
        tonic::Code::PermissionDenied,
        "FORBIDDEN",
    );
    let request = VerifyRequest { ..check(&pretender.secret) };
    assert_refused(client.verify(with(&pretender.secret, request)).await, tonic::Code::PermissionDenied, "FORBIDDEN");
}

#[tokio::test]
async fn a_key_whose_keyspace_is_no_longer_configured_is_not_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = Setup::new().ready("all").folder(folder.path()).start();
    let mut client = before.client().await;
    let gone = [key(&mut client, "norrix", "acme", &["admin"]).await, key(&mut client, "noro", "", &[]).await];
    before.stop();
    let renamed = "[[keyspace]]\nname = \"renamed\"\nprefix = \"noro_\"\n\
                   secret = { encoding = \"alphanumeric\", length = 32 }\n";
    let after = Setup::new().config(renamed).folder(folder.path()).start();
    let mut client = after.client().await;
    let left = key(&mut client, "renamed", "", &[]).await;
    let request = ListRequest { page_size: 1, ..Default::default() };
    let listed = client.list(with(ROOT, request.clone())).await.unwrap().into_inner();
    assert_eq!(listed.keys.iter().map(|key| &key.id).collect::<Vec<_>>(), [&left.id]);
    let rest = client.list(with(ROOT, ListRequest { page_token: listed.next_page_token, ..request })).await.unwrap();
    assert_eq!(rest.into_inner(), ListResponse::default(), "no page of what is gone, and none after it");
    for made in gone {
        let verdict = crate::support::grpc::verify(&mut client, check(&made.secret)).await;
        assert_eq!((verdict.code(), verdict.key_id.as_str()), (Code::NotFound, ""));
        assert_eq!(code(&mut client, &forged(&made.secret)).await, Code::Malformed);
        assert_refused(
            client.list(with(&made.secret, ListRequest::default())).await,
            tonic::Code::Unauthenticated,
            "NOT_FOUND",
        );
        let request = RevokeRequest { id: made.id.clone(), reason: String::new() };
        assert_refused(client.revoke(with(ROOT, request)).await, tonic::Code::NotFound, "NOT_FOUND");
        let request = UpdateWebhookRequest { id: made.id.clone(), webhook_url: String::new(), ..Default::default() };
        assert_refused(client.update_webhook(with(ROOT, request)).await, tonic::Code::NotFound, "NOT_FOUND");
    }
}
