//! Events that are about no change of a key: denied calls, refused credentials, and who made a root key.

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt as _;
use keyward::proto::{
    CreateRequest, Event, ListEventsRequest, ListRequest, RedeliverRequest, UpdateWebhookRequest,
    audit_service_client::AuditServiceClient,
};
use reqwest::RequestBuilder;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tonic::{Code, transport::Channel};

use crate::support::{
    Server, Setup,
    dashboard::Browser,
    grpc::{PRODUCT, create, eventually, key, made, refused},
    reply,
    server::{ROOT, with},
};

/// A period that ends during a test, and one that the stop ends.
const SHORT: &str = "1s";
const LONG: &str = "1h";
const LIMIT: Duration = Duration::from_secs(30);

/// A keyspace with admin keys, and events that are summed up over this period.
fn config(summary_period: &str) -> String {
    format!("[events]\nsummary_period = \"{summary_period}\"\n{PRODUCT}")
}

type Audit = AuditServiceClient<Channel>;

async fn audit(server: &Server) -> Audit {
    AuditServiceClient::new(server.channel().await)
}

/// Every event of a type that the holder of a credential sees.
async fn events(audit: &mut Audit, credential: &str, kind: &str) -> Vec<Event> {
    let request = ListEventsRequest { r#type: kind.into(), page_size: 1_000, ..ListEventsRequest::default() };
    audit.list_events(with(credential, request)).await.unwrap().into_inner().events
}

fn count(events: &[Event]) -> u64 {
    events.iter().map(|event| event.details["count"].parse::<u64>().unwrap()).sum()
}

/// Waits until events of a type count so much together.
async fn counted(audit: &mut Audit, kind: &str, expected: u64) -> Vec<Event> {
    let mut found = Vec::new();
    eventually(LIMIT, "the events are written", async || {
        found = events(&mut audit.clone(), ROOT, kind).await;
        count(&found) >= expected
    })
    .await;
    assert_eq!(count(&found), expected, "{found:?}");
    found
}

#[tokio::test]
async fn denied_calls_are_events_that_sum_up_by_caller_and_call() {
    let server = Setup::new().config(&config(SHORT)).start();
    let (mut client, mut audit) = (server.client().await, audit(&server).await);
    let admin = key(&mut client, "product", "acme", &["admin"]).await;
    let foreign = key(&mut client, "product", "other", &["admin"]).await;
    let plain = key(&mut client, "product", "acme", &["use"]).await;
    for _ in 0..5 {
        assert_eq!(
            refused(client.list(with(&plain.secret, ListRequest::default())).await).code,
            Code::PermissionDenied
        );
    }
    for _ in 0..3 {
        let asked = reply(server.rest("GET", "/api/api-keys?orgId=other").bearer_auth(&admin.secret)).await;
        asked.refused(403, "forbidden");
    }
    let found = counted(&mut audit, "call.denied", 8).await;
    let mut sums = BTreeMap::<_, u64>::new();
    for event in &found {
        assert!(event.key.is_none() && event.id.starts_with("evt_"), "{event:?}");
        let details = &event.details;
        *sums.entry((event.actor.clone(), details["call"].clone(), details["reason"].clone())).or_default() +=
            details["count"].parse::<u64>().unwrap();
        assert!(details["first"] <= details["last"] && details["first"].starts_with("20"), "{event:?}");
    }
    let of = |id: &str, reason: &str, count: u64| ((format!("key:{id}"), "list".to_owned(), reason.to_owned()), count);
    assert_eq!(sums, [of(&plain.id, "INSUFFICIENT_SCOPE", 5), of(&admin.id, "FORBIDDEN", 3)].into());
    // Managers of the callers' organization see them, and nobody else's do.
    assert_eq!(count(&events(&mut audit, &admin.secret, "call.denied").await), 8);
    assert_eq!(events(&mut audit, &foreign.secret, "call.denied").await, []);
    // REST shows them in its own form, and nothing was delivered.
    let (status, page) = server.call("GET", "/api/events?type=call.denied", Some(ROOT), json!(null)).await;
    assert_eq!(status, 200);
    let first = &page["events"][0];
    assert_eq!((&first["keyId"], &first["data"]), (&json!(null), &json!(null)), "{first}");
    assert!(first["details"]["call"] == "list", "{first}");
    let path = format!("/api/events/{}/deliveries", first["id"].as_str().unwrap());
    reply(server.rest("GET", &path).bearer_auth(ROOT)).await.good(200);
    reply(server.rest("GET", &path).bearer_auth(&admin.secret)).await.refused(404, "not_found");
    // What is no denial is no such event.
    let (status, page) = server.call("GET", "/api/events", Some(ROOT), json!(null)).await;
    let kinds: Vec<&str> =
        page["events"].as_array().unwrap().iter().filter_map(|event| event["type"].as_str()).collect();
    assert!(status == 200 && kinds.iter().all(|kind| ["call.denied", "key.created"].contains(kind)), "{kinds:?}");
}

/// Many strangers at once, within one period, which the stop ends. The requests' addresses are those that a proxy gives.
async fn after_one_period(
    config: &str,
    requests: impl IntoIterator<Item = (String, RequestBuilder)>,
    server: &mut Server,
) -> Server {
    futures::stream::iter(requests)
        .for_each_concurrent(8, async |(address, request)| {
            let status = request.header("x-forwarded-for", address).send().await.unwrap().status().as_u16();
            assert!([401, 403, 429].contains(&status), "{status}");
        })
        .await;
    server.stop();
    Setup::new().config(config).folder(server.folder()).start()
}

#[tokio::test]
async fn refused_credentials_are_events_by_address_and_few_however_many_there_are() {
    let config = format!("{}\n[http]\ntrusted_proxies = [\"127.0.0.1\"]", config(LONG));
    let mut server = Setup::new().config(&config).start();
    let mut client = server.client().await;
    let admin = key(&mut client, "product", "acme", &["admin"]).await;
    let none = key(&mut client, "product", "", &["admin"]).await;
    let web = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/api/api-keys", server.http);
    // More addresses than sums are kept, and one that comes often.
    let strangers = (0..600).map(|n| format!("2001:db8:0:{n:x}::1"));
    let all = strangers.chain((0..100).map(|_| "198.51.100.7".to_owned()));
    let requests = all.map(|address| (address, web.get(&url).bearer_auth("pr_forged")));
    let again = after_one_period(&config, requests, &mut server).await;
    let mut audit = audit(&again).await;
    let found = events(&mut audit, ROOT, "authentication.failed").await;
    assert_eq!((found.len(), count(&found)), (16, 700));
    let named = |event: &Event| event.details.get("address").is_some_and(|own| own == "198.51.100.7");
    assert_eq!(found.iter().find(|event| named(event)).unwrap().details["count"], "100");
    let networks = found.iter().filter(|event| event.details.get("address").is_some_and(|own| own.ends_with("::/64")));
    assert_eq!(networks.count(), 14, "an IPv6 network is one");
    let others = found.iter().filter(|event| event.details.contains_key("others"));
    assert_eq!(others.map(|event| event.details["count"].clone()).collect::<Vec<_>>(), ["586"]);
    assert!(found.iter().all(|event| event.actor == "keyward" && event.key.is_none()));
    for manager in [&admin, &none] {
        assert_eq!(events(&mut audit, &manager.secret, "authentication.failed").await, []);
    }
}

#[tokio::test]
async fn a_stop_writes_what_was_summed_up() {
    let config = config(LONG);
    let mut server = after_a_refusal(&config).await;
    server.stop();
    let found = written_by_the_stop(&server, &config).await;
    assert_eq!(count(&found), 1);
    assert_eq!(found[0].details["address"], "127.0.0.1");
}

/// A server that has refused one credential.
async fn after_a_refusal(config: &str) -> Server {
    let server = Setup::new().config(config).start();
    let mut client = server.client().await;
    assert_eq!(refused(client.list(with("pr_forged", ListRequest::default())).await).code, Code::Unauthenticated);
    server
}

/// The events of refused credentials after the stop of a server.
async fn written_by_the_stop(server: &Server, config: &str) -> Vec<Event> {
    server.logged("stopped").await;
    assert!(!server.log().contains("are lost"), "{}", server.log());
    let again = Setup::new().config(config).folder(server.folder()).start();
    events(&mut audit(&again).await, ROOT, "authentication.failed").await
}

/// As on a machine that is too busy, or that is paused: the last flush has its time, however late it begins.
#[tokio::test]
async fn a_process_that_is_paused_while_it_stops_writes_what_was_summed_up() {
    let config = config(LONG);
    let mut server = after_a_refusal(&config).await;
    // A client that answers nothing, so that the stop waits for it.
    let mut silent = TcpStream::connect(&server.grpc).await.unwrap();
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    server.signal("TERM");
    server.logged("stopping").await;
    server.signal("STOP");
    // Longer than a whole stop may take.
    tokio::time::sleep(Duration::from_secs(6)).await;
    server.signal("CONT");
    assert_eq!(server.wait(), Some(0));
    assert_eq!(count(&written_by_the_stop(&server, &config).await), 1);
}

#[tokio::test]
async fn events_that_a_stop_cannot_write_are_counted_as_lost() {
    let mut server = Setup::new().config(&config(LONG)).start();
    let mut client = server.client().await;
    let plain = key(&mut client, "product", "acme", &["use"]).await;
    for credential in [plain.secret.as_str(), "pr_forged", "pr_forged"] {
        refused(client.list(with(credential, ListRequest::default())).await);
    }
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON keyward_events BEGIN SELECT RAISE(ABORT, 'refused'); END";
    sqlx::query(refuse).execute(&mut server.sqlite().await).await.unwrap();
    server.stop();
    server.logged("audit events are lost").await;
    let log = server.log();
    let line = log.lines().find(|line| line.contains("audit events are lost")).unwrap();
    assert!(line.contains("ERROR") && line.contains("events=2"), "{line}");
    assert!(!log.contains("retrying"), "{log}");
}

#[tokio::test]
async fn a_rotation_and_a_redelivery_are_events_of_their_own() {
    let server = Setup::new().config(&config(SHORT)).start();
    let (mut client, mut audit) = (server.client().await, audit(&server).await);
    let admin = key(&mut client, "product", "acme", &["admin"]).await;
    let request = CreateRequest {
        keyspace: "product".into(),
        organization: "acme".into(),
        webhook_url: "https://a.invalid/x".into(),
        ..CreateRequest::default()
    };
    let target = made(create(&mut client, ROOT, request).await);
    let rotation =
        UpdateWebhookRequest { id: target.id.clone(), webhook_url: "https://a.invalid/x".into(), rotate_secret: true };
    client.update_webhook(with(&admin.secret, rotation)).await.unwrap();
    let of_key = ListEventsRequest { key_id: target.id.clone(), ..ListEventsRequest::default() };
    let list = async |audit: &mut Audit| {
        let page = audit.list_events(with(ROOT, of_key.clone())).await.unwrap().into_inner();
        page.events.into_iter().map(|event| (event.r#type.clone(), event.actor.clone(), event)).collect::<Vec<_>>()
    };
    let seen = list(&mut audit).await;
    let actor = format!("key:{}", admin.id);
    assert_eq!((seen.len(), seen[0].0.as_str(), seen[0].1.as_str()), (2, "webhook.rotated", actor.as_str()));
    let created = seen[1].2.id.clone();
    audit.redeliver(with(&admin.secret, RedeliverRequest { event_id: created.clone() })).await.unwrap();
    let seen = list(&mut audit).await;
    assert_eq!((seen.len(), seen[0].0.as_str(), seen[0].1.as_str()), (3, "event.redelivered", actor.as_str()));
    let again = RedeliverRequest { event_id: seen[0].2.id.clone() };
    let refused = audit.redeliver(with(&admin.secret, again)).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (tonic::Code::FailedPrecondition, "Events of this type are in the audit log only and are not sent to webhooks")
    );
    // A new URL is not hidden behind a new secret.
    let moved =
        UpdateWebhookRequest { id: target.id.clone(), webhook_url: "https://b.invalid/".into(), rotate_secret: true };
    client.update_webhook(with(&admin.secret, moved)).await.unwrap();
    assert_eq!(list(&mut audit).await[0].0, "webhook.updated");
    assert_eq!(seen[0].2.details["event"], created);
    assert_eq!(seen[0].2.key.as_ref().unwrap().id, target.id);
}

#[tokio::test]
async fn a_root_key_of_the_command_line_names_the_systems_user() {
    let mut server = Setup::new().start();
    let folder = server.folder().to_owned();
    server.stop();
    let output = Setup::new().command(&folder, &["root-key"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let again = Setup::new().folder(&folder).start();
    let found = events(&mut audit(&again).await, ROOT, "key.created").await;
    let user = std::process::Command::new("id").arg("-un").output().unwrap();
    let user = String::from_utf8(user.stdout).unwrap();
    assert_eq!(found[0].actor, format!("system:{}", user.trim()));
    assert_eq!(found[0].key.as_ref().unwrap().created_by, found[0].actor);
}

#[tokio::test]
async fn sign_ins_and_sign_outs_are_events_that_the_activity_page_shows() {
    let server = Setup::new().config(&config(SHORT)).start();
    let (mut client, mut audit) = (server.client().await, audit(&server).await);
    let admin = key(&mut client, "product", "acme", &["admin"]).await;
    let foreign = key(&mut client, "product", "other", &["admin"]).await;
    let plain = key(&mut client, "product", "acme", &["use"]).await;
    let mut browser = Browser::with(&server, &admin.secret).await;
    let other = Browser::with(&server, &admin.secret).await;
    Browser::operator(&server).await;
    Browser::new(&server).sign_in(&plain.secret).await.is(403);
    Browser::new(&server).sign_in("pr_forged").await.is(401);
    let found = counted(&mut audit, "session.signed_in", 3).await;
    let actor = format!("key:{}", admin.id);
    for event in &found {
        let details = &event.details;
        assert_eq!((details["method"].as_str(), details["address"].as_str()), ("credential", "127.0.0.1"), "{event:?}");
        assert!([actor.as_str(), "root"].contains(&event.actor.as_str()), "{event:?}");
    }
    let denied = counted(&mut audit, "call.denied", 1).await;
    assert_eq!((denied[0].actor.clone(), denied[0].details["call"].as_str()), (format!("key:{}", plain.id), "sign_in"));
    assert_eq!(counted(&mut audit, "authentication.failed", 1).await[0].details["address"], "127.0.0.1");
    // Those of its own organization see its sign-ins, and nobody else's.
    assert_eq!(count(&events(&mut audit, &admin.secret, "session.signed_in").await), 2);
    assert_eq!(events(&mut audit, &foreign.secret, "session.signed_in").await, []);
    let page = browser.get("/dashboard/activity?type=session.signed_in").await.is(200);
    let page = page.has("Signed in").has("method: credential").has(&actor);
    assert!(!page.html.contains(">root<"), "{}", page.html);
    let sheet = browser.get("/dashboard/activity.csv?type=session.signed_in").await.is(200);
    assert!(sheet.html.contains("session.signed_in") && sheet.html.contains("method: credential"), "{}", sheet.html);
    // Ending another session of one's own, and one's own. The end of one that does not exist is no sign-out.
    let sessions = browser.get("/dashboard/settings/sessions").await.is(200);
    let own = sessions.value("session");
    for session in ["0".repeat(own.len()), own] {
        browser.act("/dashboard/settings/sessions", &[("session", &session)]).await.is(303);
    }
    browser.act("/dashboard/sign-out", &[]).await.is(303);
    drop(other);
    let ended = counted(&mut audit, "session.signed_out", 2).await;
    assert!(ended.iter().all(|event| event.actor == actor), "{ended:?}");
    let (status, page) =
        server.call("GET", "/api/events?type=session.signed_out", Some(&admin.secret), json!(null)).await;
    assert_eq!((status, &page["events"][0]["actor"]), (200, &json!(actor)));
}

/// Anybody can make a denied call where anybody may create keys.
#[tokio::test]
async fn denied_calls_of_strangers_are_one_event_a_period() {
    let config = config(LONG)
        + "[http]\ntrusted_proxies = [\"127.0.0.1\"]\n[[keyspace]]\nname = \"free\"\nprefix = \"free_\"\n\
           secret = { encoding = \"alphanumeric\", length = 32 }\npublic_create = true\n";
    let mut server = Setup::new().config(&config).start();
    let web = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/api/v1/keys", server.http);
    let requests = (0..300).map(|n| {
        let body = json!({"keyspace": "free", "orgId": format!("o{n}")});
        (format!("2001:db8:0:{n:x}::1"), web.post(&url).json(&body))
    });
    let again = after_one_period(&config, requests, &mut server).await;
    let found = events(&mut audit(&again).await, ROOT, "call.denied").await;
    assert_eq!((found.len(), count(&found), found[0].actor.as_str()), (1, 300, "public"), "{found:?}");
}
