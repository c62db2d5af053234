//! `keyward.v1.AuditService`: events, who may see them, filters, pages and deliveries.

use std::time::Duration;

use keyward::proto::{
    CreateRequest, DeliveryState, Event, KeyStatus, ListDeliveriesRequest, ListEventsRequest, ListRequest,
    RedeliverRequest, RevokeRequest, UpdateWebhookRequest, audit_service_client::AuditServiceClient,
    list_deliveries_request::Subject,
};
use prost_types::Timestamp;
use tonic::{Code, transport::Channel};

use crate::support::{
    Server, Setup,
    grpc::{Client, Refusal, assert_invalid, assert_refused, create, eventually, key, made, micros, now, ttl},
    reply,
    server::{ROOT, with},
};

type Audit = AuditServiceClient<Channel>;

async fn audit(server: &Server) -> Audit {
    AuditServiceClient::new(server.channel().await)
}

async fn events(audit: &mut Audit, credential: &str, request: ListEventsRequest) -> Vec<Event> {
    audit.list_events(with(credential, request)).await.unwrap().into_inner().events
}

fn of_key(id: &str) -> ListEventsRequest {
    ListEventsRequest { key_id: id.into(), ..ListEventsRequest::default() }
}

fn deliveries_of(id: &str) -> ListDeliveriesRequest {
    let subject = if id.starts_with("evt_") { Subject::EventId(id.into()) } else { Subject::KeyId(id.into()) };
    ListDeliveriesRequest { subject: Some(subject), ..ListDeliveriesRequest::default() }
}

async fn change_webhook(client: &mut Client, credential: &str, id: &str, url: &str) {
    let request = UpdateWebhookRequest { id: id.into(), webhook_url: url.into(), ..UpdateWebhookRequest::default() };
    client.update_webhook(with(credential, request)).await.unwrap();
}

#[tokio::test]
async fn every_change_makes_an_event_with_its_actor_and_the_record_after_it() {
    let server = Setup::new().ready("norrix").start();
    let (mut client, mut audit) = (server.client().await, audit(&server).await);
    let admin = key(&mut client, "norrix", "acme", &["admin"]).await;
    let actor = format!("key:{}", admin.id);
    let start = now();
    let request =
        CreateRequest { name: "ci".into(), webhook_url: "https://a.invalid/x".into(), ..CreateRequest::default() };
    let target = made(create(&mut client, &admin.secret, request).await);
    change_webhook(&mut client, ROOT, &target.id, "https://b.invalid/y").await;
    let request = RevokeRequest { id: target.id.clone(), reason: "left".into() };
    client.revoke(with(&admin.secret, request.clone())).await.unwrap();
    // Neither changes anything, so neither makes an event.
    client.revoke(with(ROOT, request)).await.unwrap();
    client.list(with(ROOT, ListRequest::default())).await.unwrap();

    let recorded = events(&mut audit, ROOT, of_key(&target.id)).await;
    let seen: Vec<_> = recorded.iter().map(|event| (event.r#type.as_str(), event.actor.as_str())).collect();
    assert_eq!(seen, [("key.revoked", actor.as_str()), ("webhook.updated", "root"), ("key.created", actor.as_str())]);
    let keys: Vec<_> = recorded.iter().map(|event| event.key.clone().unwrap()).collect();
    assert_eq!(keys[2], target.key, "the record is the one that Create answered");
    assert_eq!((keys[1].webhook_url.as_str(), keys[1].status()), ("https://b.invalid/y", KeyStatus::Active));
    assert_eq!((keys[0].revoke_reason.as_str(), keys[0].status()), ("left", KeyStatus::Revoked));
    assert!(recorded.iter().all(|event| event.id.starts_with("evt_")));
    let times: Vec<i64> = recorded.iter().map(|event| micros(event.create_time.unwrap())).collect();
    assert!(times.is_sorted_by(|later, earlier| later >= earlier), "{times:?}");
    assert!(times[2] >= start - 1_000 && times[0] <= now(), "{start} {times:?}");
    assert!(!format!("{recorded:?}").contains(&target.secret));
    let database = std::fs::read(server.folder().join("keyward.db-wal")).unwrap();
    let holds = |text: &str| database.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("key.revoked") && !holds(&target.secret));
}

#[tokio::test]
async fn an_admin_sees_the_events_of_keys_that_it_may_list_and_no_others() {
    let server = Setup::new().ready("all").start();
    let (mut client, mut audit) = (server.client().await, audit(&server).await);
    let admin = key(&mut client, "norrix", "acme", &["admin"]).await;
    let own = key(&mut client, "norrix", "acme", &["build"]).await;
    let foreign = key(&mut client, "norrix", "other", &["build"]).await;
    let noro = key(&mut client, "noro", "acme", &[]).await;
    let service = key(&mut client, "keyward", "", &["verify"]).await;
    let all = |request| ListEventsRequest { page_size: 1_000, ..request };
    let seen = events(&mut audit, &admin.secret, all(ListEventsRequest::default())).await;
    let ids: Vec<_> = seen.iter().map(|event| event.key.as_ref().unwrap().id.as_str()).collect();
    assert_eq!(ids, [own.id.as_str(), admin.id.as_str()]);
    for id in [&foreign.id, &noro.id] {
        assert_eq!(events(&mut audit, &admin.secret, of_key(id)).await, []);
        assert_eq!(events(&mut audit, ROOT, of_key(id)).await.len(), 1);
    }
    for filter in [
        ListEventsRequest { organization: "other".into(), ..ListEventsRequest::default() },
        ListEventsRequest { organization: "nobody".into(), ..ListEventsRequest::default() },
        ListEventsRequest { keyspace: "noro".into(), ..ListEventsRequest::default() },
    ] {
        let refused = audit.list_events(with(&admin.secret, filter)).await;
        assert_refused(refused, Code::PermissionDenied, "FORBIDDEN");
    }
    // A foreign id gets exactly the response of an unknown one.
    let event = |id: &str| id.replacen("key_", "evt_", 1);
    let none = "evt_01h455vb4pex5vsknk084sn02q";
    for id in [event(&foreign.id), event(&noro.id), none.to_owned()] {
        let listed = audit.list_deliveries(with(&admin.secret, deliveries_of(&id))).await.unwrap_err();
        let again = audit.redeliver(with(&admin.secret, RedeliverRequest { event_id: id })).await.unwrap_err();
        for refusal in [Refusal::of(&listed), Refusal::of(&again)] {
            assert_eq!((refusal.code, refusal.message.as_str()), (Code::NotFound, "No such event"));
        }
    }
    let listed = audit.list_deliveries(with(&admin.secret, deliveries_of(&foreign.id))).await;
    assert_refused(listed, Code::NotFound, "NOT_FOUND");
    for credential in [&own.secret, &service.secret] {
        let refused = audit.list_events(with(credential, ListEventsRequest::default())).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        let refused = audit.redeliver(with(credential, RedeliverRequest { event_id: none.into() })).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    let nobody = audit.list_events(ListEventsRequest::default()).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn filters_narrow_the_events_and_pages_continue_the_same_query() {
    let server = Setup::new().start();
    let (mut client, mut audit) = (server.client().await, audit(&server).await);
    for n in 0..12 {
        let organization = ["a", "b"][n % 2];
        let made = key(&mut client, "", organization, &[]).await;
        if n == 5 {
            change_webhook(&mut client, ROOT, &made.id, "https://x.invalid/").await;
        }
    }
    let none = ListEventsRequest::default();
    let all = events(&mut audit, ROOT, none.clone()).await;
    assert_eq!(all.len(), 13);
    let find = async |audit: &mut Audit, request: ListEventsRequest| {
        let mut found = Vec::new();
        let mut request = ListEventsRequest { page_size: 4, ..request };
        loop {
            let page = audit.list_events(with(ROOT, request.clone())).await.unwrap().into_inner();
            assert!(page.events.len() == 4 || page.next_page_token.is_empty());
            found.extend(page.events.into_iter().map(|event| event.id));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return found;
            }
        }
    };
    let expected = |fits: &dyn Fn(&Event) -> bool| -> Vec<String> {
        all.iter().filter(|event| fits(event)).map(|event| event.id.clone()).collect()
    };
    assert_eq!(find(&mut audit, none.clone()).await, expected(&|_| true));
    let query = ListEventsRequest { organization: "b".into(), ..none.clone() };
    assert_eq!(find(&mut audit, query).await, expected(&|event| event.key.as_ref().unwrap().organization == "b"));
    let query = ListEventsRequest { r#type: "webhook.updated".into(), ..none.clone() };
    assert_eq!(find(&mut audit, query).await, expected(&|event| event.r#type == "webhook.updated"));
    let query = ListEventsRequest { r#type: "key.created".into(), actor: "root".into(), ..none.clone() };
    assert_eq!(find(&mut audit, query).await, expected(&|event| event.r#type == "key.created"));
    let query = ListEventsRequest { actor: "user:nobody".into(), ..none.clone() };
    assert_eq!(find(&mut audit, query).await, Vec::<String>::new());
    let (start, end) = (all[9].create_time.unwrap(), all[2].create_time.unwrap());
    let query = ListEventsRequest { start_time: Some(start), end_time: Some(end), ..none.clone() };
    let within = |event: &Event| (micros(start)..micros(end)).contains(&micros(event.create_time.unwrap()));
    assert_eq!(find(&mut audit, query).await, expected(&within));

    // A page token is valid for its own query only; a token of List for none of these.
    let page = ListEventsRequest { page_size: 4, ..none.clone() };
    let token = audit.list_events(with(ROOT, page.clone())).await.unwrap().into_inner().next_page_token;
    let listing = ListRequest { page_size: 4, ..ListRequest::default() };
    let foreign = client.list(with(ROOT, listing)).await.unwrap().into_inner().next_page_token;
    for (request, case) in [
        (ListEventsRequest { page_token: token.clone(), actor: "root".into(), ..page.clone() }, "another filter"),
        (ListEventsRequest { page_token: token, end_time: Some(end), ..page.clone() }, "another time"),
        (ListEventsRequest { page_token: foreign, ..page }, "a list's"),
    ] {
        assert_invalid(audit.list_events(with(ROOT, request)).await, &["page_token"], case);
    }
}

#[tokio::test]
async fn invalid_fields_are_named() {
    let server = Setup::new().start();
    let mut audit = audit(&server).await;
    let none = ListEventsRequest::default();
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let long = "x".repeat(129);
    for (request, fields) in [
        (ListEventsRequest { key_id: "key_x".into(), ..none.clone() }, vec!["key_id"]),
        (ListEventsRequest { r#type: "key.deleted".into(), ..none.clone() }, vec!["type"]),
        (ListEventsRequest { actor: "x".repeat(1_000), keyspace: long, ..none.clone() }, vec!["keyspace", "actor"]),
        (ListEventsRequest { start_time: time(2), end_time: time(2), ..none.clone() }, vec!["end_time"]),
        (
            ListEventsRequest { start_time: Some(Timestamp { seconds: 0, nanos: -1_000_000_000 }), ..none.clone() },
            vec!["start_time"],
        ),
        (ListEventsRequest { page_size: 1_001, page_token: "x".into(), ..none.clone() }, vec!["page_size"]),
        (ListEventsRequest { page_size: -1, ..none.clone() }, vec!["page_size"]),
        (ListEventsRequest { page_token: "x".into(), ..none }, vec!["page_token"]),
    ] {
        assert_invalid(audit.list_events(with(ROOT, request.clone())).await, &fields, &format!("{request:?}"));
    }
    let none = audit.list_deliveries(with(ROOT, ListDeliveriesRequest::default())).await;
    assert_invalid(none, &["event_id"], "no subject");
    let bad = ListDeliveriesRequest { page_size: 1_001, ..deliveries_of("key_x") };
    assert_invalid(audit.list_deliveries(with(ROOT, bad)).await, &["page_size", "key_id"], "both");
    let bad = RedeliverRequest { event_id: "key_01h455vb4pex5vsknk084sn02q".into() };
    assert_invalid(audit.redeliver(with(ROOT, bad)).await, &["event_id"], "a key's id");
}

#[tokio::test]
async fn deliveries_are_listed_and_can_be_repeated() {
    let server = Setup::new()
        .and("[webhooks]\nretries = []\nallow_cidrs = [\"127.0.0.0/8\"]\ndeny_ports = []")
        .delivering()
        .start();
    let (mut client, mut audit) = (server.client().await, audit(&server).await);
    let request = CreateRequest { webhook_url: "https://127.0.0.1:1/x".into(), ..CreateRequest::default() };
    let made = made(create(&mut client, ROOT, request).await);
    let event = events(&mut audit, ROOT, of_key(&made.id)).await.remove(0);
    let one = async |audit: &mut Audit, id: &str| {
        let page = audit.list_deliveries(with(ROOT, deliveries_of(id))).await.unwrap().into_inner();
        assert_eq!(page.next_page_token, "");
        page.deliveries
    };
    for attempts in 1..3 {
        let mut last = None;
        eventually(Duration::from_secs(20), "the delivery fails", async || {
            last = one(&mut audit.clone(), &event.id).await.pop();
            last.as_ref().is_some_and(|delivery| delivery.state() == DeliveryState::Failed)
        })
        .await;
        let failed = last.unwrap();
        assert_eq!((failed.event_id.as_str(), failed.key_id.as_str()), (event.id.as_str(), made.id.as_str()));
        assert_eq!((failed.host.as_str(), failed.attempts, failed.last_status), ("127.0.0.1:1", attempts, 0));
        assert!(!failed.last_error.is_empty() && failed.next_attempt_time.is_none() && failed.settle_time.is_some());
        assert_eq!(one(&mut audit, &made.id).await, [failed]);
        let again = audit.redeliver(with(ROOT, RedeliverRequest { event_id: event.id.clone() })).await;
        let again = again.unwrap().into_inner().delivery.unwrap();
        assert_eq!((again.state(), again.settle_time), (DeliveryState::Pending, None));
    }
    let bare = key(&mut client, "", "", &[]).await;
    let event = events(&mut audit, ROOT, of_key(&bare.id)).await.remove(0).id;
    assert_eq!(one(&mut audit, &event).await, []);
    let none = audit.redeliver(with(ROOT, RedeliverRequest { event_id: event })).await;
    assert_refused(none, Code::FailedPrecondition, "CONFLICT");
}

/// The background jobs of a running server, end to end.
#[tokio::test]
async fn an_expiry_and_a_spent_rate_limit_make_events_without_a_management_call() {
    let server = Setup::new()
        .and(
            "[[keyspace]]\nname = \"k\"\nprefix = \"limit_\"\nsecret = { encoding = \"alphanumeric\", length = 32 }\n\
             rate_limit = { limit = 1, window = \"1h\" }",
        )
        .start();
    let (mut client, mut audit) = (server.client().await, audit(&server).await);
    let request = CreateRequest { expiry: ttl(Duration::from_secs(2)), ..CreateRequest::default() };
    let short = made(create(&mut client, ROOT, request).await);
    let limited = key(&mut client, "", "", &[]).await;
    for _ in 0..5 {
        crate::support::grpc::code(&mut client, &limited.secret).await;
    }
    let recorded = async |audit: &mut Audit, id: &str| -> Vec<String> {
        events(audit, ROOT, of_key(id)).await.into_iter().map(|event| event.r#type).collect()
    };
    eventually(Duration::from_secs(10), "the refusal is recorded", async || {
        recorded(&mut audit.clone(), &limited.id).await == ["key.rate_limited", "key.created"]
    })
    .await;
    eventually(Duration::from_secs(40), "the expiry is recorded", async || {
        recorded(&mut audit.clone(), &short.id).await == ["key.expired", "key.created"]
    })
    .await;
    let expired = events(&mut audit, ROOT, of_key(&short.id)).await.remove(0);
    assert_eq!((expired.actor.as_str(), expired.key.unwrap().status()), ("keyward", KeyStatus::Expired));
    assert_eq!(recorded(&mut audit, &limited.id).await.len(), 2);
}

/// A key whose keyspace is no longer configured does not exist, and neither do its events, in any list.
#[tokio::test]
async fn events_of_keys_whose_keyspace_is_gone_are_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let setup = |name: &str| Setup::new().ready(name).folder(folder.path());
    let mut server = setup("all").start();
    let mut client = server.client().await;
    let mut kept = Vec::new();
    let mut gone = Vec::new();
    // The newest events are of the keyspace that will be gone: whole pages of them are passed over.
    for (keyspace, ids, count) in [("norrix", &mut kept, 3), ("noro", &mut gone, 5)] {
        for _ in 0..count {
            ids.insert(0, key(&mut client, keyspace, "acme", &[]).await.id);
        }
    }
    let before = events(&mut audit(&server).await, ROOT, ListEventsRequest::default()).await;
    assert_eq!(before.len(), 8);
    server.stop();
    let server = setup("norrix").start();
    let mut audit = audit(&server).await;
    for page_size in [0, 1, 2, 100] {
        let mut request = ListEventsRequest { page_size, ..ListEventsRequest::default() };
        let mut listed = Vec::new();
        loop {
            let page = audit.list_events(with(ROOT, request.clone())).await.unwrap().into_inner();
            listed.extend(page.events.into_iter().map(|event| event.key.unwrap().id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(listed, kept, "pages of {page_size}");
    }
    for id in &gone {
        assert_eq!(events(&mut audit, ROOT, of_key(id)).await, []);
        assert_refused(audit.list_deliveries(with(ROOT, deliveries_of(id))).await, Code::NotFound, "NOT_FOUND");
    }
    for keyspace in ["noro", "norrix"] {
        let request = ListEventsRequest { keyspace: keyspace.into(), ..ListEventsRequest::default() };
        let expected = if keyspace == "noro" { 0 } else { 3 };
        assert_eq!(events(&mut audit, ROOT, request).await.len(), expected, "{keyspace}");
    }
    let events = reply(server.rest("GET", "/api/events").bearer_auth(ROOT)).await.good(200);
    assert_eq!(events["events"].as_array().unwrap().len(), 3);
}
