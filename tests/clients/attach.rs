//! The attached client: answers from its own memory, as strict as a call.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use keyward::proto::CreateRequest;
use keyward_client::{AttachOptions, Client, ErrorKind, Reason, Verdict, WhileAway};

use crate::{
    builder, client,
    proxy::Proxy,
    service_key,
    support::{
        Server, Setup,
        grpc::{self, Made, eventually, own_limit, texts},
        server::ROOT,
    },
};

/// Long enough on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) async fn key(server: &Server, request: CreateRequest) -> Made {
    grpc::made(grpc::create(&mut server.client().await, ROOT, request).await)
}

/// An attached client at an address.
pub(crate) fn attached(address: &str, options: AttachOptions) -> Client {
    let client = Client::builder(format!("http://{address}")).credential(ROOT).timeout(Duration::from_secs(1));
    let client = client.build().unwrap();
    client.attach(options).unwrap();
    client
}

/// Waits until memory answers for a secret.
pub(crate) async fn warm(client: &Client, secret: &str) {
    eventually(LONG, "memory answers", async || {
        let before = client.attach_status().unwrap();
        let valid = client.verify(secret).await.is_ok_and(|verdict| verdict.is_valid());
        let after = client.attach_status().unwrap();
        let calls = |status: keyward_client::AttachStatus| status.calls_for_keys + status.calls_without_lease;
        valid && calls(before) == calls(after)
    })
    .await;
}

fn reason(verdict: Verdict) -> Option<Reason> {
    verdict.into_result().err().map(|refusal| refusal.reason())
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_answers_while_the_server_is_paused_and_only_until_the_lease_ends() {
    let server = Setup::new().env("KEYWARD_ATTACH_LEASE", "2s").start();
    let request = CreateRequest { organization: "acme".into(), scopes: texts(&["build"]), ..Default::default() };
    let made = key(&server, request).await;
    let client = attached(&server.grpc, AttachOptions::default());
    warm(&client, &made.secret).await;
    server.signal("STOP");
    let paused = Instant::now();
    let principal = client.verify(&made.secret).organization("acme").scope("build").await.unwrap();
    let principal = principal.into_result().unwrap();
    assert_eq!((principal.key_id(), principal.organization()), (&*made.id, Some("acme")));
    let mut last = paused;
    let error = loop {
        let began = Instant::now();
        match client.verify(&made.secret).timeout(Duration::from_millis(100)).await {
            Ok(verdict) => assert!(verdict.is_valid()),
            Err(error) => break error,
        }
        last = began;
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(last - paused <= Duration::from_secs(2), "{:?}: longer than the lease", last - paused);
    assert!(matches!(error.kind(), ErrorKind::DeadlineExceeded | ErrorKind::Unavailable), "{error}");
    assert!(!client.attach_status().unwrap().live);
    server.signal("CONT");
    warm(&client, &made.secret).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_check_after_a_revoke_is_valid() {
    let server = Setup::new().start();
    let client = attached(&server.grpc, AttachOptions::default());
    let mut operator = server.client().await;
    for _ in 0..60 {
        let made = grpc::made(grpc::create(&mut operator, ROOT, CreateRequest::default()).await);
        warm(&client, &made.secret).await;
        let start = Instant::now();
        grpc::revoke(&mut operator, &made.id).await;
        let took = start.elapsed();
        assert_eq!(reason(client.verify(&made.secret).await.unwrap()), Some(Reason::Revoked));
        assert!(took < Duration::from_secs(2), "{took:?}: it waited for the grant to end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_cut_off_silently_is_waited_for() {
    let server = Setup::new().env("KEYWARD_ATTACH_LEASE", "1s").start();
    let proxy = Proxy::start(server.grpc.parse::<SocketAddr>().unwrap()).await;
    let made = key(&server, CreateRequest::default()).await;
    let client = attached(&proxy.address().to_string(), AttachOptions::default());
    warm(&client, &made.secret).await;
    proxy.silence(true);
    // The client does not know of the Revoke: it answers VALID, but never after the Revoke returned.
    let mut operator = server.client().await;
    let revoked = tokio::spawn(async move {
        grpc::revoke(&mut operator, &made.id).await;
    });
    let mut answers = 0;
    while !revoked.is_finished() {
        answers += u32::from(client.verify(&made.secret).timeout(Duration::from_millis(20)).await.is_ok());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    revoked.await.unwrap();
    let after = client.verify(&made.secret).timeout(Duration::from_millis(100)).await;
    assert!(!after.is_ok_and(|verdict| verdict.is_valid()), "VALID after the Revoke");
    assert!(answers > 0, "memory answered while the Revoke waited");
    proxy.silence(false);
    eventually(LONG, "the client is back", async || {
        client.verify(&made.secret).await.is_ok_and(|verdict| reason(verdict) == Some(Reason::Revoked))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_ends_memory_where_that_is_asked_for() {
    let server = Setup::new().env("KEYWARD_ATTACH_LEASE", "20s").env("KEYWARD_REPLICA_LEASE", "60s").start();
    let made = key(&server, CreateRequest::default()).await;
    for (while_away, answers) in [(WhileAway::UntilLeaseEnds, true), (WhileAway::Refuse, false)] {
        let proxy = Proxy::start(server.grpc.parse::<SocketAddr>().unwrap()).await;
        let client = attached(&proxy.address().to_string(), AttachOptions::default().while_away(while_away));
        warm(&client, &made.secret).await;
        proxy.down(true);
        if answers {
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert!(client.verify(&made.secret).await.unwrap().is_valid());
        } else {
            eventually(LONG, "memory has ended", async || !client.attach_status().unwrap().live).await;
            let error = client.verify(&made.secret).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
        }
        proxy.down(false);
        warm(&client, &made.secret).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_revocation_of_the_clients_own_credential_ends_its_memory() {
    let server = Setup::new().env("KEYWARD_ATTACH_LEASE", "20s").env("KEYWARD_REPLICA_LEASE", "60s").start();
    let made = key(&server, CreateRequest::default()).await;
    let (secret, id) = service_key(&server).await;
    let client = builder(&server).credential(secret).build().unwrap();
    client.attach(AttachOptions::default()).unwrap();
    warm(&client, &made.secret).await;
    let start = Instant::now();
    grpc::revoke(&mut server.client().await, &id).await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(!client.attach_status().unwrap().live);
    assert_eq!(client.verify(&made.secret).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_with_a_limit_and_all_refusals_are_the_servers() {
    let server = Setup::new().start();
    let client = attached(&server.grpc, AttachOptions::default());
    let limited = key(&server, CreateRequest { rate_limit: Some(own_limit(5, 3_600)), ..Default::default() }).await;
    let plain = key(&server, CreateRequest { organization: "acme".into(), ..Default::default() }).await;
    warm(&client, &plain.secret).await;
    let mut admitted = 0;
    for _ in 0..20 {
        admitted += u32::from(client.verify(&limited.secret).await.unwrap().is_valid());
    }
    assert_eq!(admitted, 5, "exactly the limit");
    assert_eq!(client.attach_status().unwrap().keys, 1, "only the key without a limit is kept");
    for (check, expected) in [
        (client.verify(&plain.secret).organization("acme"), None),
        (client.verify(&plain.secret).organization("other"), Some(Reason::WrongOrganization)),
        (client.verify(&plain.secret).instance("other"), Some(Reason::WrongInstance)),
        (client.verify(&plain.secret).environment("other"), Some(Reason::WrongEnvironment)),
        (client.verify(&plain.secret).keyspace("other"), Some(Reason::NotFound)),
        (client.verify(&plain.secret).scope("build"), Some(Reason::InsufficientScope)),
    ] {
        assert_eq!(reason(check.await.unwrap()), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_of_memory_show_as_last_used() {
    let server = Setup::new().start();
    let made = key(&server, CreateRequest::default()).await;
    let client = attached(&server.grpc, AttachOptions::default());
    warm(&client, &made.secret).await;
    let mut operator = server.client().await;
    let mut took = Duration::MAX;
    // Within 3 s; on a busy machine not each time.
    for _ in 0..10 {
        warm(&client, &made.secret).await;
        // Later than every earlier use.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = grpc::now();
        let calls = client.metrics().calls;
        assert!(client.verify(&made.secret).await.unwrap().is_valid());
        if client.metrics().calls > calls {
            // The lease was over.
            continue;
        }
        let start = Instant::now();
        eventually(LONG, "the use shows", async || {
            let last = grpc::record(&mut operator, &made.id).await.last_used_time;
            // Its age was rounded, by both sides.
            last.is_some_and(|last| grpc::micros(last) >= before - 20_000)
        })
        .await;
        took = took.min(start.elapsed());
        if took < Duration::from_secs(3) {
            return;
        }
    }
    panic!("shown after {took:?} at the earliest");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_are_bounded_and_a_client_attaches_once() {
    let server = Setup::new().start();
    let client = builder(&server).credential(ROOT).build().unwrap();
    assert_eq!(client.attach_status(), None);
    assert_eq!(client.attach(AttachOptions::default().bytes(1)).unwrap_err().setting(), "attach.bytes");
    client.attach(AttachOptions::default()).unwrap();
    assert_eq!(client.attach(AttachOptions::default()).unwrap_err().setting(), "attach");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_past_the_bounds_is_refused_by_an_attached_client_as_by_a_call() {
    let server = Setup::new().env("KEYWARD_ATTACH_LEASE", "20s").env("KEYWARD_REPLICA_LEASE", "60s").start();
    let (name, too_long) = ("ö".repeat(128), "ö".repeat(129));
    let request = CreateRequest { organization: name.clone(), scopes: texts(&["build"]), ..Default::default() };
    let made = key(&server, request).await;
    let (by_calls, attached) = (client(&server), attached(&server.grpc, AttachOptions::default()));
    warm(&attached, &made.secret).await;
    let check = async |client: &Client, organization: &str, scopes: usize| {
        let scopes = std::iter::repeat_n("build", scopes);
        let verdict = client.verify(&made.secret).organization(organization).scopes(scopes).await;
        verdict.map(|verdict| verdict.is_valid()).map_err(|error| {
            let fields: Vec<_> = error.fields().map(|(field, why)| (field.to_owned(), why.to_owned())).collect();
            (error.kind(), error.reason().to_owned(), error.message().to_owned(), fields)
        })
    };
    let before = attached.attach_status().unwrap();
    assert_eq!(check(&attached, &name, 64).await, Ok(true));
    assert_eq!(attached.attach_status().unwrap().calls_for_keys, before.calls_for_keys, "it is answered from memory");
    assert_eq!(check(&by_calls, &name, 64).await, Ok(true));
    for (organization, scopes, bad) in [
        (&*name, 65, &["required_scopes"][..]),
        ("", 65, &["required_scopes"]),
        (&too_long, 0, &["organization"]),
        (&too_long, 65, &["organization", "required_scopes"]),
    ] {
        let (own, of_call) =
            (check(&attached, organization, scopes).await, check(&by_calls, organization, scopes).await);
        assert_eq!(own, of_call, "{bad:?}");
        let (kind, _, _, fields) = own.unwrap_err();
        let fields: Vec<_> = fields.iter().map(|(field, _)| &**field).collect();
        assert_eq!((kind, &*fields), (ErrorKind::InvalidArgument, bad));
    }
}

/// Whether memory answers VALID after the client's own credential was revoked.
async fn is_valid_after_its_own_revocation(faults: &str) -> bool {
    let setup = Setup::new().env("KEYWARD_ATTACH_LEASE", "20s").env("KEYWARD_REPLICA_LEASE", "60s");
    let server = setup.env("KEYWARD_FAULTS", faults).start();
    let made = key(&server, CreateRequest::default()).await;
    let (secret, id) = service_key(&server).await;
    let client = builder(&server).credential(secret).build().unwrap();
    client.attach(AttachOptions::default()).unwrap();
    warm(&client, &made.secret).await;
    grpc::revoke(&mut server.client().await, &id).await;
    client.verify(&made.secret).await.is_ok_and(|verdict| verdict.is_valid())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_credential_ends_is_notified() {
    assert!(!is_valid_after_its_own_revocation("").await);
    assert!(is_valid_after_its_own_revocation("attach_credential").await, "the guard is needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_dropped_delays_nothing() {
    let server = Setup::new().env("KEYWARD_ATTACH_LEASE", "20s").env("KEYWARD_REPLICA_LEASE", "60s").start();
    let made = key(&server, CreateRequest::default()).await;
    let client = attached(&server.grpc, AttachOptions::default());
    warm(&client, &made.secret).await;
    drop(client);
    let start = Instant::now();
    grpc::revoke(&mut server.client().await, &made.id).await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}: it waits for the grant", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_does_not_wait_for_clients_that_move() {
    let mut server = Setup::new().env("KEYWARD_ATTACH_LEASE", "20s").env("KEYWARD_REPLICA_LEASE", "60s").start();
    let made = key(&server, CreateRequest::default()).await;
    let client = attached(&server.grpc, AttachOptions::default());
    warm(&client, &made.secret).await;
    let start = Instant::now();
    assert_eq!(tokio::task::block_in_place(|| server.stop()), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}: it waits for the grant", start.elapsed());
    let status = client.attach_status().unwrap();
    assert!(!status.live, "its memory has ended: {status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_steps_changes_no_lease() {
    // By up to a day, four times a second.
    let server = Setup::new().env("KEYWARD_FAULTS", "steady_wall").start();
    let client = attached(&server.grpc, AttachOptions::default());
    let mut operator = server.client().await;
    for _ in 0..20 {
        let made = key(&server, CreateRequest::default()).await;
        warm(&client, &made.secret).await;
        let lease = client.attach_status().unwrap().lease;
        assert!(lease <= Duration::from_secs(2), "{lease:?}");
        grpc::revoke(&mut operator, &made.id).await;
        assert_eq!(reason(client.verify(&made.secret).await.unwrap()), Some(Reason::Revoked));
    }
}

/// Whether a client whose connection is cut in this way answers VALID after a Revoke has returned.
async fn is_valid_after_a_revoke(faults: &str, cut: impl Fn(&Proxy)) -> bool {
    let server = Setup::new().env("KEYWARD_FAULTS", faults).start();
    let proxy = Proxy::start(server.grpc.parse::<SocketAddr>().unwrap()).await;
    let made = key(&server, CreateRequest::default()).await;
    let client = attached(&proxy.address().to_string(), AttachOptions::default());
    warm(&client, &made.secret).await;
    // A whole grant is left.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    warm(&client, &made.secret).await;
    cut(&proxy);
    if faults.contains("ghosts") {
        // Until the server has noticed.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    grpc::revoke(&mut server.client().await, &made.id).await;
    client.verify(&made.secret).timeout(Duration::from_millis(50)).await.is_ok_and(|verdict| verdict.is_valid())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_that_does_not_wait_for_clients_is_too_early() {
    assert!(!is_valid_after_a_revoke("", |proxy| proxy.silence(true)).await);
    assert!(is_valid_after_a_revoke("attach_wait", |proxy| proxy.silence(true)).await, "the guard is needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_that_forgets_clients_which_are_gone_is_too_early() {
    assert!(!is_valid_after_a_revoke("", |proxy| proxy.down(true)).await);
    assert!(is_valid_after_a_revoke("attach_ghosts", |proxy| proxy.down(true)).await, "the guard is needed");
}
