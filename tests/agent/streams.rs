//! VerifyStream at an agent.

use std::collections::HashMap;

use keyward::proto::{Code, CreateRequest, VerifyStreamRequest, VerifyStreamResponse, verify_stream_response::Outcome};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    LONG, key,
    process::AgentSetup,
    proxy::Proxy,
    service_key,
    support::{
        Setup,
        grpc::{self, Client, own_limit},
        server::{ROOT, with},
    },
};

/// An open stream.
struct Checks {
    messages: mpsc::Sender<VerifyStreamRequest>,
    answers: Streaming<VerifyStreamResponse>,
}

impl Checks {
    async fn open(client: &mut Client, credential: &str) -> Result<Self, Status> {
        let (messages, queued) = mpsc::channel(64);
        let answers = client.verify_stream(with(credential, ReceiverStream::new(queued))).await?.into_inner();
        Ok(Self { messages, answers })
    }

    async fn send(&self, id: u64, secret: &str) {
        let request = (!secret.is_empty()).then(|| grpc::check(secret));
        self.messages.send(VerifyStreamRequest { id, request }).await.unwrap();
    }

    async fn next(&mut self) -> Result<Option<VerifyStreamResponse>, Status> {
        tokio::time::timeout(LONG, self.answers.message()).await.expect("an answer in time")
    }

    /// The outcome of one check, by its code or its reason.
    async fn get_response(&mut self, id: u64, secret: &str) -> Result<String, Status> {
        self.send(id, secret).await;
        let answer = self.next().await?.expect("the stream goes on");
        assert_eq!(answer.id, id);
        Ok(name(answer))
    }
}

fn name(answer: VerifyStreamResponse) -> String {
    match answer.outcome.expect("an outcome") {
        Outcome::Response(response) => response.code().as_str_name().to_owned(),
        Outcome::Error(error) => format!("{:?}", tonic::Code::from(error.code)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_as_the_replicas_whatever_memory_has() {
    let server = Setup::new().start();
    let agent = AgentSetup::of(&server).start().await;
    let plain = key(&server, CreateRequest::default()).await;
    let limited =
        key(&server, CreateRequest { rate_limit: Some(own_limit(1, 3_600)), ..CreateRequest::default() }).await;
    let revoked = key(&server, CreateRequest::default()).await;
    grpc::revoke(&mut server.client().await, &revoked.id).await;
    agent.warm(ROOT, &plain.secret).await;
    let mut checks = Checks::open(&mut agent.client().await, ROOT).await.unwrap();
    // Ids are the caller's own: two of them are the same.
    let cases = [
        (1, &*plain.secret, "CODE_VALID"),
        (1, &plain.secret, "CODE_VALID"),
        (2, &limited.secret, "CODE_VALID"),
        (3, &revoked.secret, "CODE_REVOKED"),
        (4, "forged", "CODE_MALFORMED"),
        (u64::MAX, "", "InvalidArgument"),
    ];
    for (id, secret, _) in cases {
        checks.send(id, secret).await;
    }
    let mut expected: HashMap<(u64, String), usize> = HashMap::new();
    for (id, _, name) in cases {
        *expected.entry((id, name.to_owned())).or_default() += 1;
    }
    for _ in cases {
        let answer = checks.next().await.unwrap().expect("the stream goes on");
        let key = (answer.id, name(answer));
        *expected.get_mut(&key).unwrap_or_else(|| panic!("{key:?} was not expected")) -= 1;
    }
    assert!(expected.values().all(|left| *left == 0), "{expected:?}");
    assert_eq!(checks.get_response(9, &limited.secret).await.unwrap(), "CODE_RATE_LIMITED");
    assert!(agent.answered_by_memory("verify_stream").await >= 2);
    // The client ends it.
    let Checks { messages, mut answers } = checks;
    drop(messages);
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_caller_is_revoked_and_is_not_opened_for_strangers() {
    let server = Setup::new().start();
    let agent = AgentSetup::of(&server).start().await;
    let plain = key(&server, CreateRequest::default()).await;
    let service = service_key(&server, &[]).await;
    let product = key(&server, CreateRequest::default()).await;
    let mut client = agent.client().await;
    // A key in memory that may not verify is no caller.
    agent.warm(ROOT, &product.secret).await;
    for (credential, code) in
        [("kw_nobody", tonic::Code::Unauthenticated), (&*product.secret, tonic::Code::PermissionDenied)]
    {
        assert_eq!(Checks::open(&mut client, credential).await.err().unwrap().code(), code);
    }
    agent.warm(&service.secret, &plain.secret).await;
    let mut checks = Checks::open(&mut client, &service.secret).await.unwrap();
    assert_eq!(checks.get_response(1, &plain.secret).await.unwrap(), "CODE_VALID");
    grpc::revoke(&mut server.client().await, &service.id).await;
    checks.send(2, &plain.secret).await;
    assert_eq!(checks.next().await.unwrap_err().code(), tonic::Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_when_the_connection_to_the_replica_breaks() {
    let server = Setup::new().start();
    let proxy = Proxy::start(server.grpc.parse().unwrap()).await;
    let agent = AgentSetup::at(&proxy.address().to_string()).start().await;
    let key =
        key(&server, CreateRequest { rate_limit: Some(own_limit(1_000, 3_600)), ..CreateRequest::default() }).await;
    let mut checks = Checks::open(&mut agent.client().await, ROOT).await.unwrap();
    assert_eq!(checks.get_response(1, &key.secret).await.unwrap(), "CODE_VALID");
    proxy.down(true);
    // Asked once more at another address, if there were one.
    assert_eq!(checks.get_response(2, &key.secret).await.unwrap(), "Unavailable");
    proxy.down(false);
    grpc::eventually(LONG, "the replica answers again", async || {
        checks.get_response(3, &key.secret).await.unwrap() == Code::Valid.as_str_name()
    })
    .await;
}
