//! The end of work that was admitted under a key: `Principal::ended` against real servers.

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use futures::{FutureExt as _, future::join_all};
use keyward::proto::{CreateRequest, UpdateWebhookRequest};
use keyward_client::{AttachOptions, Client, EndReason, Ended, NotWatched, Principal, Reason, WhileAway};
use sqlx::{ConnectOptions as _, Executor as _, postgres::PgConnectOptions};

use crate::{
    attach::{LONG, attached, key, warm},
    builder, client,
    postgres::fresh_database,
    proxy::Proxy,
    support::{
        Server, Setup,
        grpc::{self, eventually, own_limit, texts, ttl},
        reply::short_lives,
        server::{ROOT, with},
    },
};

const REVOKED: Result<EndReason, NotWatched> = Ok(EndReason::Refused(Reason::Revoked));

async fn principal(client: &Client, secret: &str) -> Principal {
    client.verify(secret).await.unwrap().into_result().unwrap()
}

/// How it ends.
async fn end(ended: Ended) -> Result<EndReason, NotWatched> {
    tokio::time::timeout(LONG, ended).await.expect("it ends in time")
}

/// Waits until the client has a lease.
async fn settled(client: &Client) {
    eventually(LONG, "the lease is there", async || client.attach_status().unwrap().live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_the_work_of_its_key_and_no_other() {
    let server = Setup::new().start();
    let client = attached(&server.grpc, AttachOptions::default());
    let mut operator = server.client().await;
    let (first, other) = (key(&server, CreateRequest::default()).await, key(&server, CreateRequest::default()).await);
    // Of a call, before memory has the key, and of memory.
    let of_call = principal(&client, &first.secret).await.ended();
    warm(&client, &first.secret).await;
    let of_memory = principal(&client, &first.secret).await.ended();
    let mut unrelated = principal(&client, &other.secret).await.ended();
    grpc::revoke(&mut operator, &first.id).await;
    assert_eq!((end(of_call).await, end(of_memory).await), (REVOKED, REVOKED));
    assert!((&mut unrelated).now_or_never().is_none(), "its key is as it was");
    grpc::revoke(&mut operator, &other.id).await;
    assert_eq!(end(unrelated).await, REVOKED);
    let status = client.attach_status().unwrap();
    assert_eq!((status.watched_keys, status.waiters), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_begins_to_wait_after_the_revocation_ends_as_well() {
    let server = Setup::new().start();
    let client = attached(&server.grpc, AttachOptions::default());
    let made = key(&server, CreateRequest::default()).await;
    let of_call = principal(&client, &made.secret).await;
    warm(&client, &made.secret).await;
    let of_memory = principal(&client, &made.secret).await;
    grpc::revoke(&mut server.client().await, &made.id).await;
    for principal in [of_call, of_memory] {
        assert_eq!(end(principal.ended()).await, REVOKED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_on_another_replica_ends_work_too() {
    let url = fresh_database().await;
    let (here, there) = (Setup::new().database(&url).start(), Setup::new().database(&url).start());
    let client = attached(&here.grpc, AttachOptions::default());
    for _ in 0..5 {
        let made = key(&there, CreateRequest::default()).await;
        let ended = principal(&client, &made.secret).await.ended();
        grpc::revoke(&mut there.client().await, &made.id).await;
        assert_eq!(end(ended).await, REVOKED);
    }
}

/// The principal of a key that memory answers for; none if the key has expired before.
async fn of_memory(client: &Client, secret: &str) -> Option<Principal> {
    let calls = || {
        let status = client.attach_status().unwrap();
        status.calls_for_keys + status.calls_without_lease
    };
    loop {
        let before = calls();
        let principal = client.verify(secret).await.unwrap().into_result().ok()?;
        if calls() == before {
            return Some(principal);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_ends_when_its_key_expires_and_not_before() {
    let server = Setup::new().start();
    let client = attached(&server.grpc, AttachOptions::default());
    for life in short_lives() {
        let made = key(&server, CreateRequest { expiry: ttl(life), ..Default::default() }).await;
        let began = Instant::now();
        let Ok(of_call) = client.verify(&made.secret).await.unwrap().into_result() else { continue };
        let of_call = of_call.ended();
        let Some(of_memory) = of_memory(&client, &made.secret).await else { continue };
        // What is left counts from before it was asked for: it may end earlier by as much as that took.
        let asked = began.elapsed();
        let expires = of_memory.expires().unwrap();
        for ended in [of_call, of_memory.ended()] {
            assert_eq!(end(ended).await, Ok(EndReason::Refused(Reason::Expired)));
            let early = expires.duration_since(SystemTime::now()).unwrap_or_default();
            assert!(early <= asked + Duration::from_millis(50), "{early:?} before its time; asked for {asked:?}");
        }
        return;
    }
    panic!("every key expired before memory had it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_changes_ends_work_only_if_the_verdict_would_change() {
    let url = fresh_database().await;
    let server = Setup::new().database(&url).start();
    let client = attached(&server.grpc, AttachOptions::default());
    let mut operator = server.client().await;
    let mut database = url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap();
    let request = || CreateRequest { organization: "acme".into(), scopes: texts(&["a", "b"]), ..Default::default() };
    for (change, reason) in [
        ("organization = 'other'", Reason::WrongOrganization),
        ("instance = 'other'", Reason::WrongInstance),
        (r#"scopes = '["b"]'"#, Reason::InsufficientScope),
        ("expires_at = 1", Reason::Expired),
    ] {
        let made = key(&server, request()).await;
        let mut ended = principal(&client, &made.secret).await.ended();
        let webhook_url = "https://example.com/hook".to_owned();
        let hook = UpdateWebhookRequest { id: made.id.clone(), webhook_url, ..Default::default() };
        operator.update_webhook(with(ROOT, hook)).await.unwrap();
        // A second wait, which begins between the two changes and ends with the second one.
        let mut later = principal(&client, &made.secret).await.ended();
        settled(&client).await;
        assert!((&mut ended).now_or_never().is_none() && (&mut later).now_or_never().is_none(), "{change}");
        let update = format!("UPDATE keyward_keys SET {change} WHERE organization = 'acme' AND revoked_at IS NULL");
        database.execute(sqlx::AssertSqlSafe(update)).await.unwrap();
        let expected = Ok(EndReason::Refused(reason));
        assert_eq!((end(ended).await, end(later).await), (expected, expected), "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_work_of_a_limited_key_ends_although_memory_never_has_it() {
    let server = Setup::new().start();
    let client = attached(&server.grpc, AttachOptions::default());
    let made = key(&server, CreateRequest { rate_limit: Some(own_limit(5, 3_600)), ..Default::default() }).await;
    let ended = principal(&client, &made.secret).await.ended();
    settled(&client).await;
    assert_eq!(client.attach_status().unwrap().keys, 0);
    assert_eq!(principal(&client, &made.secret).await.rate_limit().unwrap().remaining, 3, "watching spends nothing");
    grpc::revoke(&mut server.client().await, &made.id).await;
    assert_eq!(end(ended).await, REVOKED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_wait_for_one_key_and_those_that_stop_waiting_are_gone() {
    let server = Setup::new().start();
    let client = attached(&server.grpc, AttachOptions::default());
    let made = key(&server, CreateRequest::default()).await;
    let principal = principal(&client, &made.secret).await;
    let count = || {
        let status = client.attach_status().unwrap();
        (status.watched_keys, status.waiters)
    };
    let mut waiting: Vec<_> = (0..2_000).map(|_| principal.ended()).collect();
    assert_eq!(count(), (1, 2_000));
    waiting.truncate(1_000);
    assert_eq!(count(), (1, 1_000));
    let waiting = tokio::spawn(join_all(waiting));
    grpc::revoke(&mut server.client().await, &made.id).await;
    let ends = tokio::time::timeout(LONG, waiting).await.expect("all end").unwrap();
    assert_eq!(ends, vec![REVOKED; 1_000]);
    assert_eq!(count(), (0, 0));
    drop(principal.ended());
    assert_eq!(count(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_not_attached_says_so() {
    let server = Setup::new().start();
    let client = client(&server);
    let made = key(&server, CreateRequest::default()).await;
    let before = principal(&client, &made.secret).await;
    assert_eq!(before.ended().now_or_never(), Some(Err(NotWatched::NotAttached)));
    client.attach(AttachOptions::default()).unwrap();
    assert_eq!(before.ended().now_or_never(), Some(Err(NotWatched::NotAttached)), "it was verified before");
    let mut after = principal(&client, &made.secret).await.ended();
    assert!((&mut after).now_or_never().is_none());
    drop(client);
    assert_eq!(end(after).await, Err(NotWatched::NotAttached));
}

/// A client that reaches the server by a proxy, and work that is admitted and watched.
async fn admitted(server: &Server, options: AttachOptions) -> (Proxy, Client, String, Ended) {
    let proxy = Proxy::start(server.grpc.parse::<SocketAddr>().unwrap()).await;
    let client = attached(&proxy.address().to_string(), options);
    let made = key(server, CreateRequest::default()).await;
    warm(&client, &made.secret).await;
    let ended = principal(&client, &made.secret).await.ended();
    (proxy, client, made.id, ended)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_ends_nothing_and_a_revocation_during_it_ends_work_later() {
    let server = Setup::new().env("KEYWARD_ATTACH_LEASE", "1s").start();
    let options = AttachOptions::default().while_away(WhileAway::Refuse);
    let (proxy, client, id, mut ended) = admitted(&server, options).await;
    proxy.down(true);
    eventually(LONG, "the lease is over", async || !client.attach_status().unwrap().live).await;
    assert!((&mut ended).now_or_never().is_none());
    // Back with the key as it was.
    proxy.down(false);
    settled(&client).await;
    assert!((&mut ended).now_or_never().is_none());
    proxy.down(true);
    eventually(LONG, "the lease is over", async || !client.attach_status().unwrap().live).await;
    grpc::revoke(&mut server.client().await, &id).await;
    assert!((&mut ended).now_or_never().is_none(), "the client is cut off");
    proxy.down(false);
    assert_eq!(end(ended).await, REVOKED);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_whose_key_no_lease_covers_ends_after_the_grace_period() {
    let server = Setup::new().env("KEYWARD_ATTACH_LEASE", "1s").start();
    let grace = Duration::from_secs(4);
    let (proxy, client, _, mut ended) = admitted(&server, AttachOptions::default().grace_period(grace)).await;
    // Longer than lease and grace period: renewals keep it, although nothing is verified.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!((&mut ended).now_or_never().is_none());
    let cut = Instant::now();
    proxy.silence(true);
    assert_eq!(end(ended).await, Ok(EndReason::LeaseLost));
    assert!(cut.elapsed() >= grace / 2, "after {:?}", cut.elapsed());
    assert!(!client.attach_status().unwrap().live);
    let short = AttachOptions::default().grace_period(Duration::from_millis(999));
    let error = builder(&server).credential(ROOT).build().unwrap().attach(short).unwrap_err();
    assert_eq!(error.setting(), "attach.grace_period");
}
