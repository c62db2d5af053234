//! Starting, stopping, readiness, and the sockets of an agent.

use std::{
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use keyward::proto::{Code, CreateRequest};
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use crate::{
    LONG, is_valid, key,
    process::{AgentSetup, socket},
    proxy::Proxy,
    service_key,
    support::{
        Setup,
        grpc::{self, eventually},
        server::ROOT,
    },
    verify,
};

/// What a bad start says.
fn failure(setup: &AgentSetup, folder: &std::path::Path) -> String {
    let output = setup.command(folder).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_whether_a_call_would_be_answered() {
    let server = Setup::new().env("KEYWARD_ATTACH_LEASE", "1s").start();
    let proxy = Proxy::start(server.grpc.parse().unwrap()).await;
    proxy.down(true);
    let agent = AgentSetup::at(&proxy.address().to_string()).launch(tempfile::tempdir().unwrap());
    assert!(!agent.is_serving().await, "nothing can be asked yet");
    assert_eq!(agent.probe("/readyz").await.0, 503);
    assert_eq!(agent.probe("/healthz").await.0, 200);
    let made = key(&server, CreateRequest::default()).await;
    let refusal = verify(&mut agent.client().await, ROOT, grpc::check(&made.secret)).await.unwrap_err();
    assert_eq!((refusal.code, &*refusal.reason), (tonic::Code::Unavailable, "UNAVAILABLE"));
    for _ in 0..2 {
        proxy.down(false);
        agent.until_serving(true).await;
        assert_eq!(agent.probe("/readyz").await.0, 200);
        agent.warm(ROOT, &made.secret).await;
        proxy.down(true);
        agent.until_serving(false).await;
        let refusal = verify(&mut agent.client().await, ROOT, grpc::check(&made.secret)).await.unwrap_err();
        assert_eq!(refusal.code, tonic::Code::Unavailable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_answers_for_one_that_has_stopped() {
    let (gone, server) = (Proxy::start("127.0.0.1:1".parse().unwrap()).await, Setup::new().start());
    gone.down(true);
    let agent = AgentSetup::at(&gone.address().to_string()).and(&server.grpc).start().await;
    let made = key(&server, CreateRequest::default()).await;
    let mut client = agent.client().await;
    for _ in 0..20 {
        assert!(is_valid(&mut client, ROOT, &made.secret).await);
    }
    agent.warm(ROOT, &made.secret).await;
}

/// A replica that starts or stops: it answers NOT_SERVING, and counts how often it was asked.
#[derive(Clone, Default)]
struct NotServing(Arc<AtomicUsize>);

#[tonic::async_trait]
impl Health for NotServing {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::NotServing.into() }))
    }

    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

impl NotServing {
    /// Serves until the runtime ends; its address.
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let service = HealthServer::new(self.clone());
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        address
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_serves_while_one_of_its_replicas_serves() {
    let (server, other) = (Setup::new().start(), NotServing::default());
    // Without a valid credential there is never a lease: health depends on the replicas alone.
    let setup = AgentSetup::at(&other.start().await).and(&server.grpc).credential("kw_nobody");
    let agent = setup.start().await;
    let before = other.0.load(Ordering::SeqCst);
    eventually(LONG, "three more questions", async || other.0.load(Ordering::SeqCst) >= before + 3).await;
    assert!(!agent.log().contains("no replica answers"), "{}", agent.log());
    assert!(agent.is_serving().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_in_time_removes_the_socket_and_delays_no_revoke() {
    let server = Setup::new().env("KEYWARD_ATTACH_LEASE", "20s").env("KEYWARD_REPLICA_LEASE", "60s").start();
    let mut agent = AgentSetup::of(&server).start().await;
    let made = key(&server, CreateRequest::default()).await;
    agent.warm(ROOT, &made.secret).await;
    // A stream that its client leaves open.
    let (_messages, queued) = tokio::sync::mpsc::channel::<keyward::proto::VerifyStreamRequest>(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(queued);
    let mut answers = agent.client().await.verify_stream(crate::with(ROOT, stream)).await.unwrap().into_inner();
    let began = Instant::now();
    agent.signal("TERM");
    assert_eq!(answers.message().await.unwrap_err().code(), tonic::Code::Unavailable);
    assert_eq!(agent.wait(), Some(0), "{}", agent.log());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(!agent.socket.exists());
    let began = Instant::now();
    grpc::revoke(&mut server.client().await, &made.id).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}: the lease was not given back", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
    let server = Setup::new().start();
    let folder = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(socket(folder.path())).unwrap());
    let agent = AgentSetup::of(&server).launch(folder);
    agent.until_serving(true).await;
    let second = failure(&AgentSetup::of(&server), agent.folder.path());
    assert!(second.contains("another agent listens there"), "{second}");
    agent.until_serving(true).await;
    // Killed: its socket stays, and a new agent takes it over.
    agent.signal("KILL");
    let mut agent = agent;
    agent.wait();
    assert!(agent.socket.exists());
    let folder = std::mem::replace(&mut agent.folder, tempfile::tempdir().unwrap());
    AgentSetup::of(&server).launch(folder).until_serving(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_has_the_mode_that_is_set_and_authenticates_only_if_configured() {
    let server = Setup::new().start();
    let own = service_key(&server, &[]).await.secret;
    let made = key(&server, CreateRequest::default()).await;
    for (arguments, mode, trusted) in
        [(&[][..], 0o600, false), (&[("--socket-mode", "0660"), ("--socket-auth", "file-mode")][..], 0o660, true)]
    {
        let setup = AgentSetup::of(&server).credential(&own);
        let setup = arguments.iter().fold(setup, |setup, (name, value)| setup.arg(name, value));
        let agent = setup.start().await;
        assert_eq!(std::fs::metadata(&agent.socket).unwrap().permissions().mode() & 0o777, mode);
        let (mut socket, mut loopback) = (agent.client().await, agent.loopback_client().await);
        let nobody = loopback.verify(grpc::check(&made.secret)).await.unwrap_err();
        assert_eq!(grpc::Refusal::of(&nobody).reason, "MISSING_CREDENTIAL", "every user reaches a loopback address");
        // By a call at first, and from memory.
        for _ in 0..20 {
            let answer = socket.verify(grpc::check(&made.secret)).await;
            match answer {
                Ok(answer) => assert!(trusted && answer.into_inner().code() == Code::Valid),
                Err(status) => assert!(!trusted && status.code() == tonic::Code::Unauthenticated, "{status}"),
            }
        }
        // A credential that is there counts, and is not replaced.
        let bad = verify(&mut socket, "kw_bad", grpc::check(&made.secret)).await.unwrap_err();
        assert_eq!(bad.code, tonic::Code::Unauthenticated);
        if trusted {
            eventually(LONG, "memory answers", async || {
                let before = agent.answered_by_memory("verify").await;
                socket.verify(grpc::check(&made.secret)).await.unwrap();
                agent.answered_by_memory("verify").await > before
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_reports_every_problem() {
    let server = Setup::new().start();
    let folder = tempfile::tempdir().unwrap();
    let setup = AgentSetup::of(&server).arg("--listen", "0.0.0.0:0").arg("--upstream", "http://keyward.example:1");
    let text = failure(&setup, folder.path());
    for part in ["must be a loopback address", "plain text beyond this machine"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let text = failure(&AgentSetup::of(&server).env("KEYWARD_AGENT_CREDENTIAL", "two words"), folder.path());
    assert!(text.contains("KEYWARD_AGENT_CREDENTIAL") && !text.contains("two words"), "{text}");
    std::fs::write(socket(folder.path()), "text").unwrap();
    let text = failure(&AgentSetup::of(&server), folder.path());
    assert!(text.contains("no socket"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_is_refused_is_said_in_the_log() {
    let server = Setup::new().start();
    let agent = AgentSetup::of(&server).credential("kw_nobody").start().await;
    eventually(LONG, "a warning", async || agent.log().contains("the agent's credential is refused")).await;
    let made = key(&server, CreateRequest::default()).await;
    assert!(is_valid(&mut agent.client().await, ROOT, &made.secret).await, "callers are answered by calls");
    assert!(!agent.log().contains("kw_nobody"));
}
