//! What callers that nobody knows can make an agent hold.

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use keyward::proto::CreateRequest;
use tokio::{io::AsyncReadExt as _, net::UnixStream};

use crate::{
    LONG, is_valid, key,
    process::{Agent, AgentSetup},
    proxy::Proxy,
    support::{
        Setup,
        grpc::{self, eventually},
        server::ROOT,
        stranger::Stranger,
    },
    verify,
};

/// Connections of one agent.
const MAX_CONNECTIONS: usize = 512;
/// Calls at once on a connection without an authenticated call.
const MAX_STRANGER_CALLS: usize = 32;
/// Credentials refused in a row after which a connection is closed.
const MAX_REFUSALS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_a_caller_with_a_credential_is_accepted() {
    let server = Setup::new().start();
    let agent = AgentSetup::of(&server).start().await;
    let made = key(&server, CreateRequest::default()).await;
    let mut known = agent.client().await;
    assert!(is_valid(&mut known, ROOT, &made.secret).await);
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS + 40 {
        silent.push(UnixStream::connect(&agent.socket).await.unwrap());
    }
    // The oldest were closed for the newest.
    let mut closed = 0;
    eventually(LONG, "the oldest connections are closed", async || {
        closed = 0;
        for stream in &mut silent {
            let mut byte = [0; 64];
            let read = tokio::time::timeout(std::time::Duration::from_millis(1), stream.read(&mut byte)).await;
            closed += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
        }
        closed >= 40
    })
    .await;
    assert!(closed <= 45, "{closed} of {}", silent.len());
    assert!(is_valid(&mut known, ROOT, &made.secret).await, "a known caller is never closed for a new one");
    assert!(is_valid(&mut agent.client().await, ROOT, &made.secret).await);
}

async fn stranger(agent: &Agent) -> Stranger {
    Stranger::new(UnixStream::connect(&agent.socket).await.unwrap()).await
}

/// The attack: a stranger's calls wait for a replica, so that further ones of the connection wait for those.
#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_a_call_counts_from_its_arrival_also_where_it_waits_for_a_permit() {
    let server = Setup::new().start();
    let proxy = Proxy::start(server.grpc.parse().unwrap()).await;
    let agent = AgentSetup::at(&proxy.address().to_string()).start().await;
    let (mut first, mut second) = (stranger(&agent).await, stranger(&agent).await);
    proxy.silence(true);
    let calls = FuturesUnordered::new();
    let named = async |name: &'static str, status: BoxFuture<'static, String>| (name, status.await);
    for _ in 0..MAX_STRANGER_CALLS {
        calls.push(named("has a turn", first.verify("kw_nobody", "2S")));
    }
    calls.push(named("gets no turn", first.verify("kw_nobody", "1S")));
    calls.push(named("gets a turn late", first.verify("kw_nobody", "3S")));
    calls.push(named("on another connection", second.verify("kw_nobody", "4S")));
    let ended: Vec<_> = calls.collect().await;
    assert!(ended.iter().all(|(_, status)| status == "4"), "DEADLINE_EXCEEDED: {ended:?}");
    let mut order: Vec<_> = ended.into_iter().map(|(name, _)| name).collect();
    order.dedup();
    assert_eq!(order, ["gets no turn", "has a turn", "gets a turn late", "on another connection"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_end_their_own_connection_and_nobody_elses() {
    let server = Setup::new().start();
    let agent = AgentSetup::of(&server).start().await;
    let made = key(&server, CreateRequest::default()).await;
    let mut known = agent.client().await;
    assert!(is_valid(&mut known, ROOT, &made.secret).await);
    let mut stranger = stranger(&agent).await;
    for guess in 0..MAX_REFUSALS {
        let status = stranger.verify(&format!("kw_{guess}"), "10S").await;
        assert!(matches!(status.as_str(), "16" | "8"), "{status:?}");
    }
    tokio::time::timeout(LONG, stranger.ended).await.expect("the connection is closed").unwrap().ok();
    assert!(is_valid(&mut known, ROOT, &made.secret).await);
    let refusal = verify(&mut known, "kw_guess", grpc::check(&made.secret)).await.unwrap_err();
    assert!(matches!(refusal.code, tonic::Code::Unauthenticated | tonic::Code::ResourceExhausted), "{refusal:?}");
}
