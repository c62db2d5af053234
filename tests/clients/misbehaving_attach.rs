//! The attached client against servers that break the protocol of Attach, or an older version of it: what they say must
//! not lengthen a lease, and must not put a key into memory that is not theirs to put.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use keyward::proto::{
    AttachClear, AttachEnd, AttachGoing, AttachGrant, AttachInvalidate, AttachKey, Code, VerifyResponse,
    attach_request::Message as Up, attach_response::Message as Down, verify_stream_response::Outcome,
};
use keyward_client::{AttachOptions, AttachState, AttachStatus, Client, NotWatched};

use crate::{
    misbehaving::{Fake, client, valid},
    support::grpc::eventually,
};

/// Long enough on a busy machine.
const LONG: Duration = Duration::from_secs(30);
pub const SECRET: &str = "ak_1";

fn length(seconds: i64, nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos }
}

fn grant(number: u64, length: impl Into<Option<prost_types::Duration>>) -> Down {
    Down::Grant(AttachGrant { number, length: length.into() })
}

fn facts() -> VerifyResponse {
    let Outcome::Response(response) = valid() else { unreachable!() };
    response
}

/// The good answer to a look-up.
fn key(id: u64) -> AttachKey {
    AttachKey { id, digest: vec![7; 32], key: Some(facts()), ..AttachKey::default() }
}

/// A good server.
pub fn good(message: &Up) -> Vec<Down> {
    match message {
        Up::Renew(renew) => vec![grant(renew.number, length(20, 0))],
        Up::LookUp(look_up) => vec![Down::Key(key(look_up.id))],
        _ => Vec::new(),
    }
}

fn status(client: &Client) -> AttachStatus {
    client.attach_status().unwrap()
}

async fn verify(client: &Client) {
    assert!(client.verify(SECRET).await.unwrap().is_valid());
}

/// Checks the secret until this holds.
async fn until(client: &Client, what: &str, mut holds: impl FnMut(AttachStatus) -> bool) {
    eventually(LONG, what, async || {
        verify(client).await;
        holds(status(client))
    })
    .await;
}

/// A client of a server with a script.
async fn attached(script: impl Fn(usize, Up) -> Option<Vec<Down>> + Send + Sync + 'static) -> (Fake, Client) {
    let (fake, address) = Fake::attachable(script).await;
    let client = client(&[address], LONG);
    client.attach(AttachOptions::default()).unwrap();
    (fake, client)
}

/// A client that holds the key under a grant of 20 s.
pub async fn holder(script: impl Fn(usize, Up) -> Option<Vec<Down>> + Send + Sync + 'static) -> (Fake, Client) {
    let (fake, client) = attached(script).await;
    until(&client, "memory answers", |status| status.live && status.keys == 1).await;
    (fake, client)
}

/// Whether the next checks are answered from memory.
async fn is_from_memory(fake: &Fake, client: &Client) -> bool {
    let before = fake.checks();
    for _ in 0..10 {
        verify(client).await;
    }
    fake.checks() == before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_server_is_answered_from_memory() {
    let (fake, client) = holder(|_, message| Some(good(&message))).await;
    assert!(is_from_memory(&fake, &client).await);
    let status = status(&client);
    assert_eq!((status.state, status.sessions), (AttachState::Open, 1));
    assert!(status.lease > Duration::from_secs(5) && status.lease <= Duration::from_secs(20), "{:?}", status.lease);
    until(&client, "answers are counted", |status| status.answers >= 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_of_nothing_or_less_grants_nothing() {
    for (seconds, nanos) in [(0, 0), (-1, 0), (0, -1), (i64::MIN, 0), (-1, i32::MIN), (i64::MIN, i32::MIN)] {
        let renewals = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&renewals);
        let (fake, client) = attached(move |_, message| {
            let Up::Renew(renew) = &message else { return Some(good(&message)) };
            seen.fetch_add(1, Ordering::SeqCst);
            let none = (seconds != 0 || nanos != 0).then(|| length(seconds, nanos));
            Some(vec![grant(renew.number, none)])
        })
        .await;
        // With the second renewal, the first grant was handled.
        until(&client, "it renews again", |_| renewals.load(Ordering::SeqCst) >= 2).await;
        assert!(!status(&client).live, "{seconds} s, {nanos} ns");
        assert!(!is_from_memory(&fake, &client).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absurd_grant_counts_for_a_minute() {
    for (seconds, nanos) in [(61, 0), (i64::MAX, 0), (i64::MAX, i32::MAX), (0, i32::MAX)] {
        let renewals = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&renewals);
        let (_fake, client) = attached(move |_, message| {
            let Up::Renew(renew) = &message else { return Some(good(&message)) };
            seen.fetch_add(1, Ordering::SeqCst);
            Some(vec![grant(renew.number, length(seconds, nanos))])
        })
        .await;
        until(&client, "it has asked for time", |status| {
            status.live || status.lease.is_zero() && renewals.load(Ordering::SeqCst) >= 2
        })
        .await;
        assert!(status(&client).lease <= Duration::from_secs(60), "{seconds} s, {nanos} ns: {:?}", status(&client));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_was_not_requested_grants_nothing() {
    let renewals = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&renewals);
    let (_fake, client) = attached(move |_, message| match message {
        Up::Renew(renew) => {
            seen.fetch_add(1, Ordering::SeqCst);
            let others = [0, renew.number - 1, renew.number + 1, u64::MAX].map(|number| grant(number, length(20, 0)));
            // The renewal itself gets nothing, and what comes after it was not asked for.
            let again = grant(renew.number, length(20, 0));
            Some([others.to_vec(), vec![grant(renew.number, None), again]].concat())
        }
        other => Some([good(&other), vec![grant(1_000, length(20, 0))]].concat()),
    })
    .await;
    until(&client, "it renews again", |_| renewals.load(Ordering::SeqCst) >= 3).await;
    assert!(!status(&client).live);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_counts_from_before_it_was_requested() {
    let renewals = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&renewals);
    let (_fake, client) = attached(move |_, message| {
        let Up::Renew(renew) = &message else { return Some(good(&message)) };
        // The answer is later than the end of its grant.
        std::thread::sleep(Duration::from_millis(300));
        seen.fetch_add(1, Ordering::SeqCst);
        Some(vec![grant(renew.number, length(0, 250_000_000))])
    })
    .await;
    let mut live = false;
    until(&client, "it has renewed", |status| {
        live |= status.live;
        renewals.load(Ordering::SeqCst) >= 4
    })
    .await;
    assert!(!live, "the grant was over when it came");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_good_answers_to_its_own_look_ups_are_kept() {
    type Answer = fn(u64) -> AttachKey;
    let bad: [(&str, Answer); 7] = [
        ("of another look-up", |id| key(id + 1_000_000)),
        ("without a key", |id| AttachKey { key: None, ..key(id) }),
        ("with a digest that is too short", |id| AttachKey { digest: vec![7; 31], ..key(id) }),
        ("without a digest", |id| AttachKey { digest: Vec::new(), ..key(id) }),
        ("of a revoked key", |id| AttachKey {
            key: Some(VerifyResponse { code: Code::Revoked.into(), ..facts() }),
            ..key(id)
        }),
        ("of an unknown code", |id| AttachKey { key: Some(VerifyResponse { code: 1_000, ..facts() }), ..key(id) }),
        ("with a life of less than nothing", |id| AttachKey { life: Some(length(-1, 0)), ..key(id) }),
    ];
    for (what, make) in bad {
        let answered = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&answered);
        let (fake, client) = attached(move |_, message| {
            let Up::LookUp(look_up) = &message else { return Some(good(&message)) };
            seen.fetch_add(1, Ordering::SeqCst);
            Some(vec![Down::Key(make(look_up.id))])
        })
        .await;
        until(&client, "it asks again", |status| status.live && answered.load(Ordering::SeqCst) >= 3).await;
        assert_eq!(status(&client).keys, 0, "an answer {what}");
        assert!(!is_from_memory(&fake, &client).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_kept_for_its_life_only() {
    let (_fake, client) = attached(|_, message| {
        let Up::LookUp(look_up) = &message else { return Some(good(&message)) };
        Some(vec![Down::Key(AttachKey { life: Some(length(0, 1)), ..key(look_up.id) })])
    })
    .await;
    until(&client, "it is kept", |status| status.live && status.keys == 1).await;
    let before = status(&client).calls_for_keys;
    verify(&client).await;
    assert_eq!(status(&client).calls_for_keys, before + 1, "it has expired");
}

/// The numbers that were acknowledged.
type Acknowledged = Arc<Mutex<Vec<u64>>>;

/// A server that sends these messages after the first report of uses, and notes what is acknowledged.
fn then(messages: Vec<Down>) -> (impl Fn(usize, Up) -> Option<Vec<Down>> + Send + Sync, Acknowledged) {
    let acknowledged = Acknowledged::default();
    let (seen, sent) = (Arc::clone(&acknowledged), AtomicUsize::new(0));
    let script = move |_, message| match message {
        Up::Uses(_) if sent.fetch_add(1, Ordering::SeqCst) == 0 => Some(messages.clone()),
        Up::Acknowledge(done) => {
            seen.lock().unwrap().push(done.number);
            Some(Vec::new())
        }
        // Nothing is put back.
        Up::LookUp(_) if sent.load(Ordering::SeqCst) > 0 => Some(Vec::new()),
        other => Some(good(&other)),
    };
    (script, acknowledged)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_invalidated_is_gone_and_acknowledged() {
    let invalidate = |digest: Vec<u8>| Down::Invalidate(AttachInvalidate { number: 1, digest });
    for (what, message) in [
        ("its digest", invalidate(vec![7; 32])),
        // What is not understood may mean any key.
        ("a digest that is too short", invalidate(vec![7; 31])),
        ("no digest", invalidate(Vec::new())),
        ("a clear", Down::Clear(AttachClear { number: 1 })),
    ] {
        let (script, acknowledged) = then(vec![message]);
        let (_fake, client) = holder(script).await;
        until(&client, what, |_| !acknowledged.lock().unwrap().is_empty()).await;
        assert_eq!((status(&client).keys, acknowledged.lock().unwrap().clone()), (0, vec![1]), "{what}");
        assert!(status(&client).live, "{what}: the session goes on");
    }
    let (script, acknowledged) = then(vec![invalidate(vec![8; 32])]);
    let (_fake, client) = holder(script).await;
    until(&client, "another key", |_| !acknowledged.lock().unwrap().is_empty()).await;
    assert_eq!(status(&client).keys, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_ended_or_drained_answers_nothing() {
    for (what, message, state) in [
        ("the end", Down::End(AttachEnd { number: 1 }), AttachState::Refused),
        ("going", Down::Going(AttachGoing {}), AttachState::Connecting),
    ] {
        let stopped = Arc::new(Mutex::new(Vec::new()));
        let (script, acknowledged) = then(vec![message]);
        let seen = Arc::clone(&stopped);
        let (fake, client) = holder(move |session, message| {
            if session > 0 {
                // No second session.
                return None;
            }
            if matches!(message, Up::Stopped(_)) {
                seen.lock().unwrap().push(1);
            }
            script(session, message)
        })
        .await;
        until(&client, what, |status| !status.live).await;
        assert!(!is_from_memory(&fake, &client).await, "{what}");
        let said = if state == AttachState::Refused { &acknowledged } else { &stopped };
        eventually(LONG, "it says so", async || *said.lock().unwrap() == [1]).await;
        until(&client, "its state", |status| status.state == state).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_session_starts_without_the_keys_and_the_deadline_of_the_one_before() {
    let second = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&second);
    let (fake, client) = holder(move |session, message| match (session, message) {
        (0, Up::Uses(_)) => None,
        (0, message) => Some(good(&message)),
        // A second one that is granted time, and is answered no look-up.
        (_, Up::Renew(renew)) => {
            seen.fetch_add(1, Ordering::SeqCst);
            Some(vec![grant(renew.number, length(20, 0))])
        }
        _ => Some(Vec::new()),
    })
    .await;
    until(&client, "the second session", |status| status.sessions == 2 && second.load(Ordering::SeqCst) > 0).await;
    until(&client, "the second session answers", |status| status.keys == 0).await;
    assert!(status(&client).live && !is_from_memory(&fake, &client).await);

    // One that is granted nothing: the first one is used as a whole, until its deadline.
    let (fake, client) = holder(move |session, message| match (session, message) {
        (0, Up::Uses(_)) => None,
        (0, Up::Renew(renew)) => Some(vec![grant(renew.number, length(3, 0))]),
        (_, Up::Renew(renew)) => Some(vec![grant(renew.number, None)]),
        (_, message) => Some(good(&message)),
    })
    .await;
    until(&client, "the second session", |status| status.sessions >= 2).await;
    until(&client, "the first lease is over", |status| !status.live).await;
    assert!(!is_from_memory(&fake, &client).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_calls_are_never_kept() {
    let (fake, client) = attached(|_, message| match message {
        Up::LookUp(_) => Some(Vec::new()),
        other => Some(good(&other)),
    })
    .await;
    until(&client, "it is live", |status| status.live).await;
    assert!(!is_from_memory(&fake, &client).await);
    assert_eq!(status(&client).keys, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_detached_between_two_sessions_answers_nothing() {
    let (fake, client) = holder(|session, message| match (session, message) {
        (0, Up::Uses(_)) => None,
        (0, message) => Some(good(&message)),
        // Every later session breaks at once.
        _ => None,
    })
    .await;
    until(&client, "the session is broken", |status| status.state == AttachState::Connecting).await;
    assert!(status(&client).live && is_from_memory(&fake, &client).await, "until the lease ends");
    client.detach().await;
    assert!(!status(&client).live && !is_from_memory(&fake, &client).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_dropped_completes_every_wait_also_without_a_session() {
    let (_fake, address) = Fake::start(|_| Some(Ok(valid()))).await;
    let client = client(&[address], LONG);
    client.attach(AttachOptions::default()).unwrap();
    // No session takes the key that is wanted.
    let ended = client.verify(SECRET).await.unwrap().into_result().unwrap().ended();
    eventually(LONG, "there is no Attach", async || status(&client).state == AttachState::Unsupported).await;
    drop(client);
    let end = tokio::time::timeout(LONG, ended).await.expect("the wait completes");
    assert_eq!(end, Err(NotWatched::NotAttached));
}
