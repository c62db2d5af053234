//! Attach: what one client, or many of them, can make a server hold, do or wait for.

use std::time::{Duration, Instant};

use keyward::proto::{
    AttachAcknowledge, AttachLookUp, AttachRenew, AttachUse, AttachUses, CreateRequest, attach_request::Message as Up,
    attach_response::Message as Down,
};
use tonic::Code as Rpc;

use crate::{
    attach_session::{Session, key, of_keyspace, revoke, verifier_of},
    service_key,
    support::{
        Server, Setup,
        grpc::{self, Refusal, eventually},
        server::ROOT,
    },
};

/// Long enough on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// The value of a metric.
async fn metric(server: &Server, name: &str) -> f64 {
    let text = server.rest("GET", "/metrics").send().await.unwrap().text().await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in:\n{text}")).parse().unwrap()
}

async fn metric_becomes(server: &Server, name: &str, value: f64) {
    eventually(LONG, &format!("{name} is {value}"), async || (metric(server, name).await - value).abs() < 0.001).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_attach_and_no_more() {
    let server = Setup::new().start();
    let mut open = Vec::new();
    let refusal = 'full: loop {
        let (secret, _) = service_key(&server).await;
        let client = server.client().await;
        for _ in 0..16 {
            match Session::open_on(client.clone(), &secret).await {
                Ok(session) => {
                    // A stream whose first message does not come in time ends.
                    session.send(Up::Acknowledge(AttachAcknowledge { number: 0 }));
                    open.push(session);
                }
                Err(status) => break 'full Refusal::of(&status),
            }
        }
        assert!(open.len() <= 1_000, "there is no bound");
    };
    assert_eq!((refusal.code, &*refusal.reason), (Rpc::ResourceExhausted, "TOO_MANY_CLIENTS"));
    assert!(open.len() >= 1_000, "{}", open.len());
    assert!(metric(&server, "keyward_attached_sessions").await <= 1_000.0);
    // They work, and a Revoke waits for those that hold its key.
    let made = key(&mut server.client().await, CreateRequest::default()).await;
    let mut digest = Vec::new();
    for session in open.iter_mut().rev().step_by(10).take(10) {
        digest = session.look_up(&made.secret).await.digest;
        assert!(!session.renew(1).await.is_zero());
    }
    let revoking = revoke(server.client().await, &made.id);
    for session in open.iter_mut().rev().step_by(10).take(10) {
        let number = session.invalidated(&digest).await;
        session.acknowledge(number);
    }
    revoking.await.unwrap();
    metric_becomes(&server, "keyward_attached_notices_total", 10.0).await;
    drop(open);
    metric_becomes(&server, "keyward_attached_sessions", 0.0).await;
}

/// Whether a client that acknowledges nothing is granted time after a second.
async fn is_granted_more(faults: &str) -> bool {
    let server = Setup::new().env("KEYWARD_ATTACH_LEASE", "1s").env("KEYWARD_FAULTS", faults).start();
    let mut client = server.client().await;
    let made = key(&mut client, CreateRequest::default()).await;
    let mut session = Session::open(&server, ROOT).await.unwrap();
    let digest = session.look_up(&made.secret).await.digest;
    session.renew(1).await;
    let took = revoke(client, &made.id).await.unwrap();
    assert!(took >= Duration::from_secs(1), "{took:?}: it waits for the grant and the margin");
    session.invalidated(&digest).await;
    session.send(Up::Renew(AttachRenew { number: 2 }));
    let more = matches!(session.next().await, Ok(Some(Down::Grant(_))));
    if !more {
        metric_becomes(&server, "keyward_attached_sessions_cut_total", 1.0).await;
    }
    more
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_acknowledges_nothing_is_cut() {
    assert!(!is_granted_more("").await);
    assert!(is_granted_more("attach_cut").await, "the guard is needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_floods_look_ups_and_reads_nothing_is_cut() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let made = key(&mut client, CreateRequest::default()).await;
    let mut session = Session::open(&server, ROOT).await.unwrap();
    session.renew(1).await;
    for id in 0..200_000 {
        session.send(Up::LookUp(AttachLookUp { id, secret: made.secret.clone(), ..Default::default() }));
    }
    metric_becomes(&server, "keyward_attached_sessions_cut_total", 1.0).await;
    // Others are served, and no change waits for it for longer than its grant.
    let mut other = Session::open(&server, ROOT).await.unwrap();
    assert!(other.look_up(&made.secret).await.key.is_some());
    let start = Instant::now();
    let digest = other.look_up(&made.secret).await.digest;
    let revoking = revoke(client, &made.id);
    let number = other.invalidated(&digest).await;
    other.acknowledge(number);
    revoking.await.unwrap();
    assert!(start.elapsed() < LONG);
    drop(session);
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_of_keyspaces_that_are_not_the_callers_are_not_recorded() {
    let server = Setup::new().ready("all").start();
    let mut client = server.client().await;
    let norrix = key(&mut client, of_keyspace("norrix")).await;
    let noro = key(&mut client, of_keyspace("noro")).await;
    let caller = verifier_of(&mut client, "noro").await;
    let digest = |secret: &str| keyward::domain::secret::digest(secret).0.to_vec();
    let session = Session::open(&server, &caller.secret).await.unwrap();
    let used = |secret: &str| AttachUse { digest: digest(secret), count: 1, age: None };
    session.send(Up::Uses(AttachUses { uses: vec![used(&norrix.secret), used(&noro.secret)] }));
    eventually(LONG, "its own use shows", async || grpc::record(&mut client, &noro.id).await.last_used_time.is_some())
        .await;
    assert_eq!(grpc::record(&mut client, &norrix.id).await.last_used_time, None);
}
