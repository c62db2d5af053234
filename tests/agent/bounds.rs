//! What callers that nobody knows can make an agent hold.

use keyward::proto::CreateRequest;
use tokio::io::AsyncReadExt as _;

use crate::{
    LONG, is_valid, key,
    process::AgentSetup,
    support::{
        Setup,
        grpc::{self, eventually},
        server::ROOT,
    },
    verify,
};

/// Connections of one agent.
const MAX_CONNECTIONS: usize = 512;
/// Credentials refused in a row after which a connection is closed.
const MAX_REFUSALS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_a_caller_with_a_credential_comes_in() {
    let server = Setup::new().start();
    let agent = AgentSetup::of(&server).start().await;
    let made = key(&server, CreateRequest::default()).await;
    let mut known = agent.client().await;
    assert!(is_valid(&mut known, ROOT, &made.secret).await);
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS + 40 {
        silent.push(tokio::net::UnixStream::connect(&agent.socket).await.unwrap());
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

#[tokio::test(flavor = "multi_thread")]
async fn guesses_end_their_own_connection_and_nobody_elses() {
    let server = Setup::new().start();
    let agent = AgentSetup::of(&server).start().await;
    let made = key(&server, CreateRequest::default()).await;
    let mut known = agent.client().await;
    assert!(is_valid(&mut known, ROOT, &made.secret).await);
    // On a connection that no client makes anew.
    let stream = tokio::net::UnixStream::connect(&agent.socket).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::spawn(connection);
    for guess in 0..MAX_REFUSALS {
        let request = http::Request::post("http://agent/keyward.v1.KeyService/Verify")
            .header("content-type", "application/grpc")
            .header("authorization", format!("Bearer kw_{guess}"))
            .body(())
            .unwrap();
        sender = sender.ready().await.unwrap();
        let (response, mut body) = sender.send_request(request, false).unwrap();
        body.send_data(bytes::Bytes::from_static(&[0; 5]), true).unwrap();
        let response = response.await.unwrap();
        let status = response.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
        assert!(matches!(status.as_deref(), Some("16" | "8")), "{status:?}");
    }
    tokio::time::timeout(LONG, ended).await.expect("the connection is closed").unwrap().ok();
    assert!(is_valid(&mut known, ROOT, &made.secret).await);
    let refusal = verify(&mut known, "kw_guess", grpc::check(&made.secret)).await.unwrap_err();
    assert!(matches!(refusal.code, tonic::Code::Unauthenticated | tonic::Code::ResourceExhausted), "{refusal:?}");
}
