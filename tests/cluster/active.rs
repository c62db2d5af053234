//! Requests that are in flight while their key is revoked.

use std::time::Duration;

use futures::StreamExt as _;
use keyward::{
    domain::secret::digest,
    proto::{Code, CreateRequest, VerifyStreamRequest, VerifyStreamResponse, verify_stream_response::Outcome},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    cluster::{Cluster, Replica, Start, code},
    support::{
        grpc::{self, Client, Made, check, made},
        server::{ROOT, with},
    },
};

/// An open VerifyStream.
struct Open {
    checks: mpsc::Sender<VerifyStreamRequest>,
    answers: Streaming<VerifyStreamResponse>,
}

impl Open {
    async fn new(client: &mut Client, credential: &str) -> Self {
        let (checks, waiting) = mpsc::channel(16);
        let answers = client.verify_stream(with(credential, ReceiverStream::new(waiting))).await.expect("it opens");
        Self { checks, answers: answers.into_inner() }
    }

    async fn send(&self, secret: &str) {
        self.checks.send(VerifyStreamRequest { id: 1, request: Some(check(secret)) }).await.expect("it is open");
    }

    async fn next(&mut self) -> Result<Code, Status> {
        let next = tokio::time::timeout(Duration::from_secs(10), self.answers.next()).await.expect("an answer in time");
        match next.expect("an answer")?.outcome {
            Some(Outcome::Response(response)) => Ok(response.code()),
            other => panic!("{other:?}"),
        }
    }
}

/// A key that no replica has cached.
async fn cold_key(replica: &Replica, request: CreateRequest) -> Made {
    made(grpc::create(&mut replica.client(), ROOT, request).await)
}

/// Starts a check on the second replica, revokes the key on the first while the reply to the look-up is held back, and
/// returns the answer to the check.
async fn revoked_while_it_waits(faults: &str) -> Code {
    let (_cluster, first, second) = Cluster::pair(Start::without(faults)).await;
    let key = cold_key(&first, CreateRequest::default()).await;
    second.proxy.hold_replies_to(&digest(&key.secret).0);
    let (mut client, secret) = (second.client(), key.secret.clone());
    let waiting = tokio::spawn(async move { code(&mut client, &secret, Duration::from_secs(8)).await });
    second.proxy.holds_a_reply().await;
    first.revoke(&key.id).await;
    second.proxy.release();
    waiting.await.expect("it ends").expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_verify_that_waits_while_its_key_is_revoked_answers_revoked() {
    let (with, without) = tokio::join!(revoked_while_it_waits(""), revoked_while_it_waits("recheck"));
    assert_eq!(with, Code::Revoked);
    assert_eq!(without, Code::Valid, "the test does not show that the row must be checked again after the wait");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stream_message_that_waits_while_its_key_is_revoked_answers_revoked() {
    let (_cluster, first, second) = Cluster::pair(Start::default()).await;
    let key = cold_key(&first, CreateRequest::default()).await;
    let mut stream = Open::new(&mut second.client(), ROOT).await;
    second.proxy.hold_replies_to(&digest(&key.secret).0);
    stream.send(&key.secret).await;
    second.proxy.holds_a_reply().await;
    first.revoke(&key.id).await;
    second.proxy.release();
    assert_eq!(stream.next().await.expect("an answer"), Code::Revoked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_next_message_of_an_open_stream_answers_revoked() {
    let (cluster, first, second) = Cluster::pair(Start::default()).await;
    let key = cluster.warm_key().await;
    let mut stream = Open::new(&mut second.client(), ROOT).await;
    stream.send(&key.secret).await;
    assert_eq!(stream.next().await.expect("an answer"), Code::Valid);
    first.revoke(&key.id).await;
    stream.send(&key.secret).await;
    assert_eq!(stream.next().await.expect("an answer"), Code::Revoked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stream_ends_unauthenticated_once_its_caller_is_revoked() {
    let (cluster, first, second) = Cluster::pair(Start::default()).await;
    let key = cluster.warm_key().await;
    let service =
        CreateRequest { keyspace: "keyward".into(), scopes: vec!["verify".into()], ..CreateRequest::default() };
    let caller = cold_key(&first, service).await;
    let mut stream = Open::new(&mut second.client(), &caller.secret).await;
    stream.send(&key.secret).await;
    assert_eq!(stream.next().await.expect("an answer"), Code::Valid);
    first.revoke(&caller.id).await;
    stream.send(&key.secret).await;
    let status = stream.next().await.expect_err("the stream ends");
    assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status:?}");
}
