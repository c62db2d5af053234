//! VerifyStream while the database is away, and while the server stops.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use keyward::proto::{Code, VerifyStreamRequest, VerifyStreamResponse, verify_stream_response::Outcome};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    Away, assert_public,
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

async fn ask(stream: &mut (Checks, Streaming<VerifyStreamResponse>), secret: &str) -> Result<Code, tonic::Code> {
    stream.0.send(VerifyStreamRequest { id: 1, request: Some(check(secret)) }).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(15), stream.1.next()).await.expect("an answer");
    match answer.expect("the stream goes on").expect("the stream goes on").outcome.unwrap() {
        Outcome::Response(response) => Ok(response.code()),
        Outcome::Error(error) => {
            assert_public(&error.message);
            Err(error.code.into())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_an_outage_and_says_of_each_check_that_it_could_not_be_decided() {
    let away = Away::new().await;
    let server = Setup::new().database(&away.url).start();
    let mut client = server.client().await;
    let service = key(&mut client, "keyward", "", &["verify"]).await;
    let (held, not_held) = (key(&mut client, "", "", &[]).await, key(&mut client, "", "", &[]).await);
    for credential in [ROOT, service.secret.as_str()] {
        let mut stream = open(&mut client, credential).await;
        assert_eq!(ask(&mut stream, &held.secret).await, Ok(Code::Valid));
        away.proxy.down(true);
        // The key, and for a service its own credential, can be looked up no more once the lease is over.
        eventually(Duration::from_secs(10), "the lease runs out", async || {
            ask(&mut stream, &held.secret).await == Err(tonic::Code::Unavailable)
        })
        .await;
        assert_eq!(ask(&mut stream, &not_held.secret).await, Err(tonic::Code::Unavailable));
        away.proxy.down(false);
        for secret in [&held.secret, &not_held.secret] {
            eventually(Duration::from_secs(10), "checks are decided again", async || {
                ask(&mut stream, secret).await == Ok(Code::Valid)
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_does_not_keep_a_server_from_stopping_in_good_order() {
    let mut server = Setup::new().start();
    let mut client = server.client().await;
    let made = key(&mut client, "", "", &[]).await;
    let mut stream = open(&mut client, ROOT).await;
    assert_eq!(ask(&mut stream, &made.secret).await, Ok(Code::Valid));
    let start = Instant::now();
    let ended = tokio::task::spawn_blocking(move || (server.stop(), server));
    let last =
        tokio::time::timeout(Duration::from_secs(15), stream.1.next()).await.expect("it ends").expect("a status");
    assert_eq!(last.unwrap_err().code(), tonic::Code::Unavailable);
    let (code, server) = ended.await.unwrap();
    assert_eq!(code, Some(0), "{}", server.log());
    // Far below what calls in flight are given.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
