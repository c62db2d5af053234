//! A key that Revoke has ended is dead at the agent, whatever has become of the agent meanwhile.

use std::time::{Duration, Instant};

use keyward::proto::{Code, CreateRequest};

use crate::{
    LONG, is_valid, key,
    process::AgentSetup,
    proxy::Proxy,
    service_key,
    support::{
        Server, Setup,
        grpc::{self, eventually},
        server::ROOT,
    },
    verify,
};

/// `attach.lease` of these tests, and what a Revoke waits for beyond it: the margin, and a busy machine.
const LEASE: Duration = Duration::from_secs(2);
const TOLERANCE: Duration = Duration::from_secs(4);

fn start() -> Server {
    Setup::new().env("KEYWARD_ATTACH_LEASE", "2s").start()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_check_at_the_agent_after_a_revoke_is_valid() {
    let server = start();
    let agent = AgentSetup::of(&server).start().await;
    let service = service_key(&server, &[]).await;
    let (mut operator, mut client) = (server.client().await, agent.client().await);
    for turn in 0..40 {
        let made = key(&server, CreateRequest::default()).await;
        let caller = if turn % 2 == 0 { ROOT } else { &service.secret };
        agent.warm(caller, &made.secret).await;
        let began = Instant::now();
        grpc::revoke(&mut operator, &made.id).await;
        assert!(began.elapsed() < LEASE, "{:?}: it waited for the lease", began.elapsed());
        assert_eq!(verify(&mut client, caller, grpc::check(&made.secret)).await.unwrap().code(), Code::Revoked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_caller_gets_no_answer_from_memory() {
    let server = start();
    let agent = AgentSetup::of(&server).start().await;
    let made = key(&server, CreateRequest::default()).await;
    let mut client = agent.client().await;
    for _ in 0..10 {
        let service = service_key(&server, &[]).await;
        agent.warm(&service.secret, &made.secret).await;
        grpc::revoke(&mut server.client().await, &service.id).await;
        let refusal = verify(&mut client, &service.secret, grpc::check(&made.secret)).await.unwrap_err();
        assert_eq!((refusal.code, &*refusal.reason), (tonic::Code::Unauthenticated, "REVOKED"));
        assert!(is_valid(&mut client, ROOT, &made.secret).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_revocation_of_the_agents_own_credential_ends_its_memory() {
    let server = start();
    let made = key(&server, CreateRequest::default()).await;
    let own = service_key(&server, &[]).await;
    let agent = AgentSetup::of(&server).credential(&own.secret).start().await;
    agent.warm(&own.secret, &made.secret).await;
    grpc::revoke(&mut server.client().await, &own.id).await;
    let mut client = agent.client().await;
    let refusal = verify(&mut client, &own.secret, grpc::check(&made.secret)).await.unwrap_err();
    assert_eq!(refusal.code, tonic::Code::Unauthenticated);
    // Other callers are answered by calls.
    assert!(is_valid(&mut client, ROOT, &made.secret).await);
    assert_eq!(agent.metric("keyward_agent_lease_live").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_agent_delays_a_revoke_by_its_lease_and_never_answers_valid_afterwards() {
    let server = start();
    let agent = AgentSetup::of(&server).start().await;
    let mut operator = server.client().await;
    for _ in 0..3 {
        let made = key(&server, CreateRequest::default()).await;
        agent.warm(ROOT, &made.secret).await;
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut client = agent.client().await;
            assert!(is_valid(&mut client, ROOT, &made.secret).await);
            clients.push(client);
        }
        agent.signal("STOP");
        let began = Instant::now();
        grpc::revoke(&mut operator, &made.id).await;
        assert!(began.elapsed() < LEASE + TOLERANCE, "{:?}", began.elapsed());
        // These wait in the agent's sockets, and are answered as soon as it runs again.
        let checks: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let secret = made.secret.clone();
                tokio::spawn(async move { is_valid(&mut client, ROOT, &secret).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        agent.signal("CONT");
        for check in checks {
            assert!(!check.await.unwrap(), "VALID after the Revoke");
        }
        let mut client = agent.client().await;
        eventually(LONG, "the agent is back", async || {
            verify(&mut client, ROOT, grpc::check(&made.secret))
                .await
                .is_ok_and(|answer| answer.code() == Code::Revoked)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_cut_off_answers_no_longer_than_its_lease_and_then_refuses() {
    let server = start();
    let proxy = Proxy::start(server.grpc.parse().unwrap()).await;
    let agent = AgentSetup::at(&proxy.address().to_string()).start().await;
    let made = key(&server, CreateRequest::default()).await;
    agent.warm(ROOT, &made.secret).await;
    let mut client = agent.client().await;
    // Silently: neither side learns of it.
    proxy.silence(true);
    let secret = made.secret.clone();
    let mut operator = server.client().await;
    let revoked = tokio::spawn(async move { grpc::revoke(&mut operator, &made.id).await });
    let mut answers = 0;
    while !revoked.is_finished() {
        let check = is_valid(&mut client, ROOT, &secret);
        answers += u32::from(tokio::time::timeout(Duration::from_millis(20), check).await.unwrap_or(false));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    revoked.await.unwrap();
    let mut request = crate::with(ROOT, grpc::check(&secret));
    request.set_timeout(Duration::from_millis(500));
    let refusal = client.verify(request).await.unwrap_err();
    assert!(
        matches!(refusal.code(), tonic::Code::Unavailable | tonic::Code::DeadlineExceeded),
        "{refusal:?}: nothing else after the Revoke"
    );
    assert!(answers > 0, "memory answered while the Revoke waited");
    agent.until_serving(false).await;
    proxy.silence(false);
    agent.until_serving(true).await;
    assert_eq!(verify(&mut client, ROOT, grpc::check(&secret)).await.unwrap().code(), Code::Revoked);
}
