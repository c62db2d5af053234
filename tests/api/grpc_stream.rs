//! VerifyStream: many checks in flight on one stream.

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt as _;
use keyward::proto::{
    Code, CreateRequest, VerifyRequest, VerifyStreamRequest, VerifyStreamResponse, verify_stream_response::Outcome,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tonic_types::StatusExt as _;

use crate::support::{
    Server, Setup,
    grpc::{Client, Made, Refusal, assert_refused, check, create, forged, key, made, revoke, texts, ttl},
    reply::short_lives,
    server::{ROOT, with},
};

/// An open stream.
struct Open {
    checks: mpsc::Sender<VerifyStreamRequest>,
    answers: Streaming<VerifyStreamResponse>,
}

impl Open {
    async fn try_open(client: &mut Client, credential: &str) -> Result<Self, Status> {
        let (checks, waiting) = mpsc::channel(1_024);
        let answers = client.verify_stream(with(credential, ReceiverStream::new(waiting))).await?.into_inner();
        Ok(Self { checks, answers })
    }

    async fn open(client: &mut Client, credential: &str) -> Self {
        Self::try_open(client, credential).await.unwrap()
    }

    async fn send(&self, id: u64, request: VerifyRequest) {
        self.checks.send(VerifyStreamRequest { id, request: Some(request) }).await.unwrap();
    }

    async fn next(&mut self) -> Result<(u64, Outcome), Status> {
        let answer = tokio::time::timeout(Duration::from_secs(10), self.answers.next()).await.expect("an answer");
        answer.expect("the stream goes on").map(|answer| (answer.id, answer.outcome.expect("an outcome")))
    }

    async fn code(&mut self, id: u64, request: VerifyRequest) -> Code {
        self.send(id, request).await;
        match self.next().await.unwrap() {
            (answered, Outcome::Response(response)) if answered == id => response.code(),
            other => panic!("{other:?}"),
        }
    }
}

async fn start() -> (Server, Client, Made) {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let made = key(&mut client, "", "acme", &["read"]).await;
    (server, client, made)
}

async fn service(client: &mut Client) -> Made {
    let request = CreateRequest { keyspace: "keyward".into(), scopes: texts(&["verify"]), ..Default::default() };
    made(create(client, ROOT, request).await)
}

#[tokio::test]
async fn every_check_gets_one_response_with_its_id() {
    let (_server, mut client, made) = start().await;
    let mut stream = Open::open(&mut client, ROOT).await;
    let forged = forged(&made.secret);
    let mut expected = BTreeMap::new();
    for id in 0..500_u64 {
        let (request, code) = match id % 4 {
            0 => (check(&made.secret), Code::Valid),
            1 => (check(&forged), Code::Malformed),
            2 => (VerifyRequest { keyspace: "nothing".into(), ..check(&made.secret) }, Code::NotFound),
            _ => (VerifyRequest { organization: "other".into(), ..check(&made.secret) }, Code::WrongOrganization),
        };
        let id = if id == 0 { u64::MAX } else { id };
        expected.insert(id, code);
        stream.send(id, request).await;
    }
    let mut seen = BTreeMap::new();
    while seen.len() < expected.len() {
        let (id, outcome) = stream.next().await.unwrap();
        let Outcome::Response(response) = outcome else { panic!("{outcome:?}") };
        assert_eq!(seen.insert(id, response.code()), None, "{id} was answered twice");
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn ids_may_repeat_and_every_check_gets_a_response() {
    let (_server, mut client, made) = start().await;
    let mut stream = Open::open(&mut client, ROOT).await;
    for _ in 0..5 {
        stream.send(7, check(&made.secret)).await;
        stream.send(0, check("x")).await;
    }
    let mut codes = Vec::new();
    for _ in 0..10 {
        let (id, outcome) = stream.next().await.unwrap();
        let Outcome::Response(response) = outcome else { panic!("{outcome:?}") };
        codes.push((id, response.code()));
    }
    codes.sort_unstable();
    assert_eq!(codes, [[(0, Code::Malformed); 5], [(7, Code::Valid); 5]].concat());
}

#[tokio::test]
async fn the_stream_ends_after_the_last_response_once_the_caller_has_finished() {
    let (_server, mut client, made) = start().await;
    let Open { checks, mut answers } = Open::open(&mut client, ROOT).await;
    for id in 0..100 {
        checks.send(VerifyStreamRequest { id, request: Some(check(&made.secret)) }).await.unwrap();
    }
    drop(checks);
    let mut answered = 0;
    while let Some(answer) = answers.next().await {
        answer.unwrap();
        answered += 1;
    }
    assert_eq!(answered, 100);
}

#[tokio::test]
async fn an_invalid_check_gets_an_error_message_and_the_stream_continues() {
    let (_server, mut client, made) = start().await;
    let mut stream = Open::open(&mut client, ROOT).await;
    let long = "o".repeat(129);
    let bad = [
        (Some(VerifyRequest { organization: long, ..check(&made.secret) }), "organization"),
        (Some(VerifyRequest { required_scopes: texts(&[""]), ..check(&made.secret) }), "required_scopes"),
        (None, "request"),
    ];
    for (request, field) in bad {
        stream.checks.send(VerifyStreamRequest { id: 3, request }).await.unwrap();
        let (id, outcome) = stream.next().await.unwrap();
        let Outcome::Error(error) = outcome else { panic!("{outcome:?}") };
        assert_eq!((id, error.code), (3, tonic::Code::InvalidArgument as i32));
        let status = Status::with_details(error.code.into(), error.message.clone(), error.encode_to_vec().into());
        let refusal = Refusal::of(&status);
        assert_eq!((refusal.domain.as_str(), refusal.reason.as_str()), ("keyward", "INVALID_ARGUMENT"));
        assert_eq!(refusal.fields, [field]);
        assert!(status.get_error_details().bad_request().is_some());
        assert_eq!(stream.code(4, check(&made.secret)).await, Code::Valid);
    }
}

#[tokio::test]
async fn a_key_that_is_revoked_while_the_stream_is_open_verifies_as_revoked() {
    let (_server, mut client, made) = start().await;
    let mut stream = Open::open(&mut client, ROOT).await;
    assert_eq!(stream.code(1, check(&made.secret)).await, Code::Valid);
    revoke(&mut client, &made.id).await;
    assert_eq!(stream.code(2, check(&made.secret)).await, Code::Revoked);
}

/// A stolen service credential must not verify secrets on a stream that was opened before the revocation.
#[tokio::test]
async fn a_caller_that_is_revoked_has_its_stream_ended_as_unauthenticated() {
    let (_server, mut client, made) = start().await;
    let service = service(&mut client).await;
    let mut stream = Open::open(&mut client, &service.secret).await;
    assert_eq!(stream.code(1, check(&made.secret)).await, Code::Valid);
    revoke(&mut client, &service.id).await;
    stream.send(2, check(&made.secret)).await;
    let refusal = Refusal::of(&stream.next().await.unwrap_err());
    assert_eq!((refusal.code, refusal.reason.as_str()), (tonic::Code::Unauthenticated, "REVOKED"));
    assert!(stream.answers.next().await.is_none(), "nothing follows");
}

/// The same for a credential that expires.
#[tokio::test]
async fn a_caller_that_expires_has_its_stream_ended_as_unauthenticated() {
    let (_server, mut client, made) = start().await;
    let mut lives = short_lives();
    let (service, mut stream) = loop {
        let expiry = ttl(lives.next().expect("a caller's key lives long enough for one check"));
        let request = CreateRequest { keyspace: "keyward".into(), expiry, ..Default::default() };
        let service = crate::support::grpc::made(create(&mut client, ROOT, request).await);
        // On a busy machine the key may expire before the first check.
        let Ok(mut stream) = Open::try_open(&mut client, &service.secret).await else { continue };
        stream.send(1, check(&made.secret)).await;
        match stream.next().await {
            Ok((1, Outcome::Response(response))) => assert_eq!(response.code(), Code::Valid),
            Ok(other) => panic!("{other:?}"),
            Err(_) => continue,
        }
        break (service, stream);
    };
    crate::support::grpc::until_expired(&mut client, &service.secret).await;
    stream.send(2, check(&made.secret)).await;
    let refusal = Refusal::of(&stream.next().await.unwrap_err());
    assert_eq!((refusal.code, refusal.reason.as_str()), (tonic::Code::Unauthenticated, "EXPIRED"));
}

#[tokio::test]
async fn a_message_larger_than_a_mebibyte_ends_the_stream_as_out_of_range() {
    let (_server, mut client, made) = start().await;
    let mut stream = Open::open(&mut client, ROOT).await;
    assert_eq!(stream.code(1, check(&"a".repeat(900_000))).await, Code::Malformed);
    assert_eq!(stream.code(2, check(&made.secret)).await, Code::Valid);
    stream.send(3, check(&"a".repeat(1 << 20))).await;
    assert_eq!(stream.next().await.unwrap_err().code(), tonic::Code::OutOfRange);
}

/// VerifyStream requires the same credential as Verify.
#[tokio::test]
async fn a_stream_needs_the_right_to_verify() {
    let server = Setup::new().ready("norrix").start();
    let mut client = server.client().await;
    let admin = key(&mut client, "", "acme", &["admin"]).await;
    let opened = client.verify_stream(tokio_stream::empty::<VerifyStreamRequest>()).await;
    assert_refused(opened, tonic::Code::Unauthenticated, "MISSING_CREDENTIAL");
    for (credential, code, reason) in [
        (admin.secret.as_str(), tonic::Code::PermissionDenied, "FORBIDDEN"),
        ("nonsense", tonic::Code::Unauthenticated, "MALFORMED"),
    ] {
        let opened = client.verify_stream(with(credential, tokio_stream::empty())).await;
        assert_refused(opened, code, reason);
    }
}

#[tokio::test]
async fn more_checks_than_may_be_pending_are_all_answered() {
    let (_server, mut client, _) = start().await;
    let mut secrets = Vec::new();
    for _ in 0..20 {
        secrets.push(key(&mut client, "", "", &[]).await.secret);
    }
    let mut stream = Open::open(&mut client, ROOT).await;
    // None of the keys is in memory yet, so the checks wait for look-ups.
    for id in 0..900 {
        stream.send(id, check(&secrets[usize::try_from(id).unwrap() % secrets.len()])).await;
    }
    for _ in 0..900 {
        let (_, outcome) = stream.next().await.unwrap();
        assert!(matches!(outcome, Outcome::Response(response) if response.code() == Code::Valid));
    }
}
