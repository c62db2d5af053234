//! VerifyStream while the database is unavailable, and while the server stops.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use keyward::proto::{Code, VerifyStreamRequest, VerifyStreamResponse, verify_stream_response::Outcome};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    ProxiedDatabase, assert_public,
    support::{
        Setup,
        grpc::{Client, check, eventually, key},
        server::{ROOT, with},
    },
};

type Checks = mpsc::Sender<VerifyStreamRequest>;

async fn open(client: &mut Client, credential: &str) -> (Checks, Streaming<VerifyStreamResponse>) {
    let (checks, waiting) = mpsc::channel(16);
    let answers = client.verify_stream(with(credential, ReceiverStream::new(waiting))).await.unwrap().into_inner();
    (checks, answers)
}

async fn get_response(
    stream: &mut (Checks, Streaming<VerifyStreamResponse>),
    secret: &str,
) -> Result<Code, tonic::Code> {
    stream.0.send(VerifyStreamRequest { id: 1, request: Some(check(secret)) }).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(15), stream.1.next()).await.expect("an answer");
    match answer.expect("the stream continues").expect("the stream continues").outcome.unwrap() {
        Outcome::Response(response) => Ok(response.code()),
        Outcome::Error(error) => {
            assert_public(&error.message);
            Err(error.code.into())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_survives_an_outage_and_answers_each_check_with_an_error() {
    let database = ProxiedDatabase::new().await;
    let server = Setup::new().database(&database.url).start();
    let mut client = server.client().await;
    let service = key(&mut client, "keyward", "", &["verify"]).await;
    let (cached, not_cached) = (key(&mut client, "", "", &[]).await, key(&mut client, "", "", &[]).await);
    for credential in [ROOT, service.secret.as_str()] {
        let mut stream = open(&mut client, credential).await;
        assert_eq!(get_response(&mut stream, &cached.secret).await, Ok(Code::Valid));
        database.proxy.down(true);
        // Once the lease has expired, the key needs a look-up, and so does the key of a service caller.
        eventually(Duration::from_secs(10), "the lease expires", async || {
            get_response(&mut stream, &cached.secret).await == Err(tonic::Code::Unavailable)
        })
        .await;
        assert_eq!(get_response(&mut stream, &not_cached.secret).await, Err(tonic::Code::Unavailable));
        database.proxy.down(false);
        for secret in [&cached.secret, &not_cached.secret] {
            eventually(Duration::from_secs(10), "checks have verdicts again", async || {
                get_response(&mut stream, secret).await == Ok(Code::Valid)
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_does_not_prevent_a_graceful_stop() {
    let mut server = Setup::new().start();
    let mut client = server.client().await;
    let made = key(&mut client, "", "", &[]).await;
    let mut stream = open(&mut client, ROOT).await;
    assert_eq!(get_response(&mut stream, &made.secret).await, Ok(Code::Valid));
    let start = Instant::now();
    let ended = tokio::task::spawn_blocking(move || (server.stop(), server));
    let last =
        tokio::time::timeout(Duration::from_secs(15), stream.1.next()).await.expect("it ends").expect("a status");
    assert_eq!(last.unwrap_err().code(), tonic::Code::Unavailable);
    let (code, server) = ended.await.unwrap();
    assert_eq!(code, Some(0), "{}", server.log());
    // Far less than the drain timeout of calls in flight.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
