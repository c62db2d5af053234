//! The client against servers that fail in ways of their own.

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt as _, future::join_all};
use keyward::proto::{
    self, Code, VerifyResponse, VerifyStreamRequest, VerifyStreamResponse,
    attach_response::Message as Down,
    key_service_server::{KeyService, KeyServiceServer},
    verify_stream_response::Outcome,
};
use keyward_client::{AttachState, Client, ErrorKind};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, Streaming};

type Answer = Arc<dyn Fn(usize) -> Option<Result<Outcome, Status>> + Send + Sync>;
/// What a server sends on a session, numbered from 0, when it gets this message; none: the session ends.
pub type Script = Arc<dyn Fn(usize, proto::attach_request::Message) -> Option<Vec<Down>> + Send + Sync>;

/// A server that answers each check, by its number, as the test says: with an outcome, by the end of the stream, or not
/// at all.
#[derive(Clone)]
pub struct Fake {
    answer: Answer,
    /// None, as in an older version: there is no such call.
    attach: Option<Script>,
    sessions: Arc<AtomicUsize>,
    shift: u64,
    checks: Arc<AtomicUsize>,
    streams: Arc<AtomicUsize>,
    /// How often each secret was asked about.
    asked: Arc<Mutex<HashMap<String, usize>>>,
}

impl Fake {
    /// Starts it; its address.
    pub async fn start(
        answer: impl Fn(usize) -> Option<Result<Outcome, Status>> + Send + Sync + 'static,
    ) -> (Self, SocketAddr) {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), 0, answer).await
    }

    /// Starts it at an address; port 0: any. It answers the check whose id is larger by `shift` than the one it is
    /// asked.
    async fn start_at(
        address: SocketAddr,
        shift: u64,
        answer: impl Fn(usize) -> Option<Result<Outcome, Status>> + Send + Sync + 'static,
    ) -> (Self, SocketAddr) {
        Self { shift, ..Self::new(Arc::new(answer)) }.listen(address).await
    }

    /// Starts one that answers every check with VALID, and sessions by a script.
    pub async fn attachable(
        script: impl Fn(usize, proto::attach_request::Message) -> Option<Vec<Down>> + Send + Sync + 'static,
    ) -> (Self, SocketAddr) {
        let fake = Self { attach: Some(Arc::new(script)), ..Self::new(Arc::new(|_| Some(Ok(valid())))) };
        fake.listen(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    fn new(answer: Answer) -> Self {
        Self {
            answer,
            attach: None,
            sessions: Arc::default(),
            shift: 0,
            checks: Arc::default(),
            streams: Arc::default(),
            asked: Arc::default(),
        }
    }

    async fn listen(self, address: SocketAddr) -> (Self, SocketAddr) {
        let fake = self;
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let service = KeyServiceServer::new(fake.clone());
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        (fake, address)
    }

    /// How many checks it was asked.
    pub fn checks(&self) -> usize {
        self.checks.load(Ordering::SeqCst)
    }

    fn streams(&self) -> usize {
        self.streams.load(Ordering::SeqCst)
    }
}

#[tonic::async_trait]
impl KeyService for Fake {
    type VerifyStreamStream = Pin<Box<dyn Stream<Item = Result<VerifyStreamResponse, Status>> + Send>>;

    async fn verify_stream(
        &self,
        request: Request<Streaming<VerifyStreamRequest>>,
    ) -> Result<Response<Self::VerifyStreamStream>, Status> {
        self.streams.fetch_add(1, Ordering::SeqCst);
        let fake = self.clone();
        let answers = request.into_inner().filter_map(move |message| {
            let fake = fake.clone();
            async move {
                let message = message.ok()?;
                let number = fake.checks.fetch_add(1, Ordering::SeqCst);
                let secret = message.request.map(|request| request.secret).unwrap_or_default();
                *fake.asked.lock().unwrap().entry(secret).or_default() += 1;
                let outcome = (fake.answer)(number)?;
                Some(
                    outcome.map(|outcome| VerifyStreamResponse { id: message.id + fake.shift, outcome: Some(outcome) }),
                )
            }
        });
        // An error ends a stream.
        let ended = std::sync::atomic::AtomicBool::new(false);
        let answers = answers.take_while(move |item| {
            let go_on = !ended.load(Ordering::SeqCst);
            ended.store(item.is_err(), Ordering::SeqCst);
            std::future::ready(go_on)
        });
        Ok(Response::new(Box::pin(answers)))
    }

    // The client does not make these calls here.

    async fn create(&self, _: Request<proto::CreateRequest>) -> Result<Response<proto::CreateResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list(&self, _: Request<proto::ListRequest>) -> Result<Response<proto::ListResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn revoke(&self, _: Request<proto::RevokeRequest>) -> Result<Response<proto::RevokeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn verify(&self, _: Request<proto::VerifyRequest>) -> Result<Response<proto::VerifyResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type AttachStream = Pin<Box<dyn Stream<Item = Result<proto::AttachResponse, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<proto::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let Some(script) = self.attach.clone() else { return Err(Status::unimplemented("")) };
        let session = self.sessions.fetch_add(1, Ordering::SeqCst);
        let answers = request.into_inner().map(move |message| script(session, message.ok()?.message?));
        let answers = answers.take_while(|answers| std::future::ready(answers.is_some()));
        let messages = answers.flat_map(|answers| futures::stream::iter(answers.unwrap_or_default()));
        let messages = messages.map(|message| Ok(proto::AttachResponse { message: Some(message) }));
        Ok(Response::new(Box::pin(messages)))
    }

    async fn update_webhook(
        &self,
        _: Request<proto::UpdateWebhookRequest>,
    ) -> Result<Response<proto::UpdateWebhookResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

pub fn valid() -> Outcome {
    let key_id = "key_01h455vb4pex5vsknk084sn02q".to_owned();
    Outcome::Response(VerifyResponse { code: Code::Valid.into(), key_id, ..Default::default() })
}

fn failed(code: tonic::Code) -> Outcome {
    let status = Status::new(code, "of the check");
    Outcome::Error(tonic_types::pb::Status {
        code: status.code().into(),
        message: status.message().into(),
        details: Vec::new(),
    })
}

pub fn client(addresses: &[SocketAddr], timeout: Duration) -> Client {
    let mut urls = addresses.iter().map(|address| format!("http://{address}"));
    let builder = Client::builder(urls.next().unwrap()).credential("kw_x").timeout(timeout);
    urls.fold(builder, keyward_client::ClientBuilder::endpoint).build().unwrap()
}

/// Long enough on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// A port on which nothing listens.
async fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_the_same_time_share_one_stream() {
    let (fake, address) = Fake::start(|_| Some(Ok(valid()))).await;
    let client = client(&[address], LONG);
    let secrets: Vec<_> = (0..2_000).map(|n| format!("ak_{n}")).collect();
    let verdicts = join_all(secrets.iter().map(|secret| async { client.verify(secret).await })).await;
    assert!(verdicts.iter().all(|verdict| verdict.as_ref().is_ok_and(keyward_client::Verdict::is_valid)));
    assert_eq!((fake.streams(), fake.checks()), (1, 2_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_gets_the_answer_to_its_own_check() {
    let (_fake, address) = Fake::start(|number| {
        let Outcome::Response(response) = valid() else { unreachable!() };
        Some(Ok(Outcome::Response(VerifyResponse { name: format!("n{number}"), ..response })))
    })
    .await;
    let client = client(&[address], LONG);
    let secrets: Vec<_> = (0..500).map(|n| format!("ak_{n}")).collect();
    let verdicts = join_all(secrets.iter().map(|secret| async { client.verify(secret).await })).await;
    let mut names: Vec<_> =
        verdicts.into_iter().map(|verdict| verdict.unwrap().into_result().unwrap().name().to_owned()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 500, "no answer went to two calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn unavailable_is_tried_again_and_nothing_else_is() {
    let (fake, address) =
        Fake::start(|number| Some(Ok(if number < 3 { failed(tonic::Code::Unavailable) } else { valid() }))).await;
    assert!(client(&[address], LONG).verify("ak_1").await.unwrap().is_valid());
    assert_eq!(fake.checks(), 4);
    for (code, kind) in [
        (tonic::Code::Internal, ErrorKind::Internal),
        (tonic::Code::InvalidArgument, ErrorKind::InvalidArgument),
        (tonic::Code::ResourceExhausted, ErrorKind::ResourceExhausted),
        (tonic::Code::Unknown, ErrorKind::Internal),
        (tonic::Code::Ok, ErrorKind::Internal),
    ] {
        let (fake, address) = Fake::start(move |_| Some(Ok(failed(code)))).await;
        let error = client(&[address], LONG).verify("ak_1").await.unwrap_err();
        assert_eq!((error.kind(), fake.checks()), (kind, 1), "{code:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_end_with_the_deadline_and_grow_apart() {
    let (fake, address) = Fake::start(|_| Some(Ok(failed(tonic::Code::Unavailable)))).await;
    let start = Instant::now();
    let error = client(&[address], Duration::from_millis(700)).verify("ak_1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // 5 to 10 ms, 10 to 20 ms, … 250 to 500 ms: at most 8 delays in 700 ms.
    assert!((2..=9).contains(&fake.checks()), "{}", fake.checks());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_without_an_answer_ends_with_its_deadline() {
    let (_fake, address) = Fake::start(|_| None).await;
    let start = Instant::now();
    let client = client(&[address], LONG);
    let error = client.verify("ak_1").timeout(Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_nothing_is_left_for_another_one() {
    let (silent, first) = Fake::start(|_| None).await;
    let (_fake, second) = Fake::start(|_| Some(Ok(valid()))).await;
    let client = client(&[first, second], LONG);
    // Whichever comes first: the silent one is given up after 5 s.
    let verdicts = join_all((0..4).map(|_| async { client.verify("ak_1").await })).await;
    assert!(verdicts.iter().all(|verdict| verdict.as_ref().is_ok_and(keyward_client::Verdict::is_valid)));
    assert!(silent.checks() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_of_a_stream_that_ends_are_asked_again_on_a_new_one() {
    // As a server that stops, or a connection that is old enough: every tenth check ends its stream.
    let (fake, address) = Fake::start(|number| {
        Some(if number % 10 == 9 { Err(Status::unavailable("the connection is to end")) } else { Ok(valid()) })
    })
    .await;
    let client = client(&[address], LONG);
    let secrets: Vec<_> = (0..100).map(|n| format!("ak_{n}")).collect();
    let verdicts = join_all(secrets.iter().map(|secret| async { client.verify(secret).await })).await;
    assert!(verdicts.iter().all(|verdict| verdict.as_ref().is_ok_and(keyward_client::Verdict::is_valid)));
    assert!(fake.streams() > 2, "{}", fake.streams());
    assert_eq!(fake.asked.lock().unwrap().len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_no_check_ends_the_stream() {
    let (_fake, address) = Fake::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), 1, |_| Some(Ok(valid()))).await;
    let error = client(&[address], LONG).verify("ak_1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_take_turns_and_one_that_is_away_is_left_out() {
    let (first, a) = Fake::start(|_| Some(Ok(valid()))).await;
    let (second, b) = Fake::start(|_| Some(Ok(valid()))).await;
    let client = client(&[a, closed().await, b], LONG);
    for _ in 0..60 {
        assert!(client.verify("ak_1").await.unwrap().is_valid());
    }
    assert_eq!(first.checks() + second.checks(), 60);
    assert!(first.checks() >= 20 && second.checks() >= 20, "{} and {}", first.checks(), second.checks());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_comes_back_is_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = listener.local_addr().unwrap();
    drop(listener);
    let (_first, a) = Fake::start(|_| Some(Ok(valid()))).await;
    let client = client(&[a, away], LONG);
    for _ in 0..4 {
        assert!(client.verify("ak_1").await.unwrap().is_valid());
    }
    let (back, _) = Fake::start_at(away, 0, |_| Some(Ok(valid()))).await;
    let start = Instant::now();
    while back.checks() == 0 {
        assert!(client.verify("ak_1").await.unwrap().is_valid());
        assert!(start.elapsed() < LONG, "not used again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_a_version_without_attach_is_asked_by_calls() {
    let (fake, address) = Fake::start(|_| Some(Ok(valid()))).await;
    let client = client(&[address], LONG);
    client.attach(keyward_client::AttachOptions::default()).unwrap();
    for _ in 0..20 {
        assert!(client.verify("ak_1").await.unwrap().is_valid());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let metrics = client.metrics();
    let status = metrics.attach.unwrap();
    assert_eq!((fake.checks(), status.live, status.calls_without_lease), (20, false, 20));
    assert_eq!((status.state, metrics.calls, metrics.undecided), (AttachState::Unsupported, 20, 0));
}
