//! Tenants are apart: what one caller asks for takes nothing that the calls of others need.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use keyward::proto::{Code, ListRequest, RevokeRequest};
use serde_json::json;
use sqlx::Executor as _;
use tonic::Code as Status;

use crate::support::{
    Server, Setup,
    grpc::{Client, Made, PRODUCT, Refusal, check, code, create, key, made, refused, revoke, verify},
    reply,
    server::{ROOT, with},
};

/// 100,000 keys of the organization `big`, a second older than any other.
async fn fill(server: &Server) {
    server
        .sqlite()
        .await
        .execute(
            "INSERT INTO keyward_keys (id, keyspace, digest, organization, created_by, created_at, name) \
             WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000) \
             SELECT unhex(printf('%012x70008%015x', 1700000000000 + n, n)), 'product', unhex(printf('%064x', n * 7919)), \
             'big', 'root', 1700000000000000 + n, 'one of many' FROM numbers",
        )
        .await
        .unwrap();
}

async fn admin(client: &mut Client, organization: &str) -> Made {
    key(client, "product", organization, &["use", "admin"]).await
}

fn nobodys(page_token: String) -> ListRequest {
    ListRequest { created_by: "nobody".into(), page_token, ..ListRequest::default() }
}

/// Lists that fit nothing, over and over, until `done`.
async fn list_on(mut client: Client, admin: String, done: Arc<AtomicBool>, pages: Arc<AtomicUsize>) {
    let mut token = String::new();
    while !done.load(Ordering::Relaxed) {
        match client.list(with(&admin, nobodys(token.clone()))).await {
            Ok(page) => {
                token = page.into_inner().next_page_token;
                pages.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) => {
                let refusal = Refusal::of(&status);
                assert_eq!((refusal.code, refusal.reason.as_str()), (Status::ResourceExhausted, "RATE_LIMITED"));
                assert!(refusal.retry.is_some(), "{refusal:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_find_nothing_leave_look_ups_and_revocations_of_others_alone() {
    let server = Setup::new().config(PRODUCT).start();
    let mut client = server.client().await;
    fill(&server).await;
    let (big, other) = (admin(&mut client, "big").await, admin(&mut client, "other").await);
    let (done, pages) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut listing = Vec::new();
    for _ in 0..20 {
        let client = server.client().await;
        listing.push(tokio::spawn(list_on(client, big.secret.clone(), Arc::clone(&done), Arc::clone(&pages))));
    }
    for round in 0..40 {
        // A new key is in no cache.
        let made = key(&mut client, "product", "other", &[]).await;
        assert_eq!(code(&mut client, &made.secret).await, Code::Valid, "{round}");
        let request = RevokeRequest { id: made.id.clone(), ..RevokeRequest::default() };
        let revoked = client.revoke(with(&other.secret, request)).await.unwrap().into_inner().key.unwrap();
        assert_eq!(revoked.id, made.id);
        assert_eq!(code(&mut client, &made.secret).await, Code::Revoked, "{round}");
    }
    done.store(true, Ordering::Relaxed);
    for list in listing {
        list.await.unwrap();
    }
    assert!(pages.load(Ordering::Relaxed) > 20, "the lists ran meanwhile");
}

/// A page over many keys ends early, and its token leads on to every key that fits.
#[tokio::test]
async fn a_list_that_fits_few_keys_ends_pages_early_and_misses_none() {
    let server = Setup::new().config(PRODUCT).start();
    let mut client = server.client().await;
    let old = key(&mut client, "product", "big", &[]).await;
    // Below all others by its id, so that only the last page reaches it.
    fill(&server).await;
    server
        .sqlite()
        .await
        .execute("UPDATE keyward_keys SET created_by = 'user:ann' WHERE created_at = 1700000000000001")
        .await
        .unwrap();
    let big = admin(&mut client, "big").await;
    let (mut found, mut pages, mut empty, mut token) = (Vec::new(), 0, 0, String::new());
    loop {
        let request = ListRequest { created_by: "user:ann".into(), page_token: token, ..ListRequest::default() };
        let page = client.list(with(&big.secret, request)).await.unwrap().into_inner();
        pages += 1;
        empty += usize::from(page.keys.is_empty());
        found.extend(page.keys);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((pages, empty), (11, 10), "10,000 keys at a time");
    let [only] = &found[..] else { panic!("{found:?}") };
    assert_eq!(only.created_by, "user:ann");
    assert_ne!(only.id, old.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_past_its_bound_of_calls_is_refused_and_others_are_not() {
    let server = Setup::new().config(PRODUCT).and("[server]\ncalls_per_caller = 4").start();
    let mut client = server.client().await;
    fill(&server).await;
    let big = admin(&mut client, "big").await;
    let calls = (0..40).map(|_| {
        let mut client = client.clone();
        let secret = big.secret.clone();
        tokio::spawn(async move { client.list(with(&secret, nobodys(String::new()))).await })
    });
    let calls: Vec<_> = calls.collect();
    let (mut listed, mut limited) = (0, 0);
    for call in calls {
        // Another caller, on the same connection.
        verify(&mut client, check(&big.secret)).await;
        client.list(with(ROOT, ListRequest::default())).await.unwrap();
        match call.await.unwrap() {
            Ok(_) => listed += 1,
            Err(status) => {
                let refusal = Refusal::of(&status);
                assert_eq!((refusal.code, refusal.reason.as_str()), (Status::ResourceExhausted, "RATE_LIMITED"));
                assert_eq!(refusal.retry, Some(Duration::from_secs(1)));
                limited += 1;
            }
        }
    }
    assert!(listed >= 4 && limited > 0, "{listed} listed, {limited} refused");
    // Each call that has ended makes room.
    client.list(with(&big.secret, nobodys(String::new()))).await.unwrap();
}

#[tokio::test]
async fn an_organization_has_no_more_live_keys_than_its_keyspace_allows() {
    let server = Setup::new().config(PRODUCT).and("max_keys = 3").start();
    let mut client = server.client().await;
    let admin = admin(&mut client, "acme").await;
    let body = || json!({"name": "one", "keyspace": "product", "orgId": "acme"});
    server.create(body()).await;
    server.create(body()).await;
    // For operators, too, over both ports.
    let refused_call = reply(server.rest("POST", "/api/api-keys").bearer_auth(ROOT).json(&body())).await;
    assert!(refused_call.refused(409, "key_limit_reached").contains("as many keys as it may have"));
    let own = keyward::proto::CreateRequest::default;
    let refusal = refused(client.create(with(&admin.secret, own())).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Status::FailedPrecondition, "KEY_LIMIT_REACHED"));
    // Another organization has room, and so have keys without one.
    key(&mut client, "product", "other", &[]).await;
    for _ in 0..5 {
        key(&mut client, "product", "", &[]).await;
    }
    let listed = client.list(with(&admin.secret, ListRequest::default())).await.unwrap().into_inner().keys;
    assert_eq!(listed.len(), 3);
    revoke(&mut client, &listed[0].id).await;
    create(&mut client, &admin.secret, own()).await;
    assert_eq!(refused(client.create(with(&admin.secret, own())).await).reason, "KEY_LIMIT_REACHED");
}

#[tokio::test]
async fn a_caller_creates_no_more_keys_than_its_keyspace_allows_in_a_window() {
    let limit = "create_limit = { limit = 2, window = \"1h\" }";
    let server = Setup::new().config(PRODUCT).and(limit).start();
    let mut client = server.client().await;
    let (one, other) = (admin(&mut client, "acme").await, admin(&mut client, "acme").await);
    let request = keyward::proto::CreateRequest::default;
    // What is refused for another reason does not count.
    let invalid = keyward::proto::CreateRequest { scopes: vec!["none".into()], ..request() };
    assert_eq!(refused(client.create(with(&one.secret, invalid)).await).code, Status::InvalidArgument);
    for _ in 0..2 {
        made(create(&mut client, &one.secret, request()).await);
    }
    let refusal = refused(client.create(with(&one.secret, request())).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Status::ResourceExhausted, "RATE_LIMITED"));
    assert!(refusal.retry.is_some_and(|wait| wait > Duration::from_mins(30)), "{refusal:?}");
    let body = json!({"name": "one"});
    let limited = reply(server.rest("POST", "/api/api-keys").bearer_auth(&one.secret).json(&body)).await;
    limited.refused(429, "rate_limited");
    create(&mut client, &other.secret, request()).await;
    for _ in 0..3 {
        key(&mut client, "product", "acme", &[]).await;
    }
}

/// Processor time in ticks of all threads with this name.
fn ticks(server: &Server, name: &str) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    stats
        .filter_map(|stat| {
            let (head, rest) = stat.rsplit_once(") ")?;
            let fields: Vec<u64> = rest.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
            // Time in user mode and in the kernel.
            head.ends_with(&format!("({name}")).then(|| fields[11] + fields[12])
        })
        .sum()
}

/// The threads that answer Verify only send what the thread of lists has made.
#[tokio::test(flavor = "multi_thread")]
async fn lists_and_events_are_encoded_off_the_threads_that_answer_verify() {
    let server = Setup::new().config(PRODUCT).start();
    let mut client = server.client().await.max_decoding_message_size(8 << 20);
    fill(&server).await;
    let big = admin(&mut client, "big").await;
    let before = ticks(&server, "grpc");
    for _ in 0..40 {
        let request = ListRequest { page_size: 1_000, ..ListRequest::default() };
        assert_eq!(client.list(with(&big.secret, request)).await.unwrap().into_inner().keys.len(), 1_000);
    }
    let (serving, bulk) = (ticks(&server, "grpc") - before, ticks(&server, "bulk"));
    println!("processor time for 40 pages of 1,000 keys, in ticks: serving threads {serving}, thread of lists {bulk}");
    assert!(bulk > serving, "serving threads took {serving} ticks, the thread of lists {bulk}");
    let niceness = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().filter_map(|task| {
        let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        let (head, rest) = stat.rsplit_once(") ")?;
        let nice = rest.split(' ').nth(16)?.parse::<i32>().ok()?;
        Some((head.split_once('(')?.1.to_owned(), nice))
    });
    let niceness: Vec<(String, i32)> = niceness.collect();
    let of = |name: &str| niceness.iter().filter(|(own, _)| own == name).map(|(_, nice)| *nice).max();
    assert!(of("bulk") > of("grpc"), "{niceness:?}");
}
