//! The database goes away under a running server, and comes back.

use std::time::{Duration, Instant};

use keyward::proto::{Code, CreateRequest, ListRequest, RevokeRequest, UpdateWebhookRequest, VerifyRequest};
use serde_json::{Value, json};
use tonic::{Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    Away, assert_public,
    support::{
        Server, Setup,
        grpc::{Client, Refusal, check, code, create, eventually, forged, key, made},
        server::{ROOT, with},
    },
    wire,
};

/// Longer than any bound that the server sets itself.
const BOUND: Duration = Duration::from_secs(12);

/// A server whose database can be taken away, a key that is in its memory, and one that is not.
struct Scene {
    away: Away,
    server: Server,
    client: Client,
    held: String,
    not_held: String,
    id: String,
}

impl Scene {
    async fn new() -> Self {
        let away = Away::new().await;
        let server = Setup::new().database(&away.url).start();
        let mut client = server.client().await;
        let held = key(&mut client, "", "", &[]).await;
        assert_eq!(code(&mut client, &held.secret).await, Code::Valid);
        let not_held = key(&mut client, "", "", &[]).await.secret;
        Self { away, server, client, held: held.secret, not_held, id: held.id }
    }

    async fn health(&self) -> ServingStatus {
        let request = HealthCheckRequest { service: "keyward.v1.KeyService".into() };
        HealthClient::new(self.server.channel().await).check(request).await.unwrap().into_inner().status()
    }

    async fn ready(&self) -> u16 {
        self.server.call("GET", "/readyz", None, Value::Null).await.0
    }

    /// The lease has run out: memory answers no more.
    async fn lease_is_over(&mut self) {
        let (mut client, held) = (self.client.clone(), self.held.clone());
        eventually(BOUND, "the lease runs out", async || client.verify(with(ROOT, check(&held))).await.is_err()).await;
    }

    /// Everything works again, by itself.
    async fn recovers(&mut self) {
        let (mut client, secrets) = (self.client.clone(), [self.held.clone(), self.not_held.clone()]);
        for secret in &secrets {
            eventually(BOUND, "keys are valid again", async || {
                client
                    .verify(with(ROOT, check(secret)))
                    .await
                    .is_ok_and(|answer| answer.into_inner().code() == Code::Valid)
            })
            .await;
        }
        eventually(BOUND, "it is ready again", async || {
            self.ready().await == 200 && self.health().await == ServingStatus::Serving
        })
        .await;
        create(&mut self.client, ROOT, CreateRequest::default()).await;
    }
}

fn hurried<T>(length: Duration, message: T) -> Request<T> {
    let mut request = with(ROOT, message);
    request.set_timeout(length);
    request
}

/// One call of each kind that needs the database, side by side under the same bound; what each answered.
async fn calls(client: &Client, scene: (&str, &str), bound: Duration) -> Vec<(&'static str, Status)> {
    let (id, not_held) = scene;
    let end = RevokeRequest { id: id.into(), reason: String::new() };
    let hook = UpdateWebhookRequest { id: id.into(), webhook_url: String::new(), ..Default::default() };
    // The caller's own credential is a key that is not in memory.
    let mut own = hurried(bound, check("x"));
    own.metadata_mut().insert("authorization", format!("Bearer {not_held}").parse().unwrap());
    let mut clients: [Client; 6] = std::array::from_fn(|_| client.clone());
    let [verifier, creator, lister, changer, revoker, caller] = &mut clients;
    let (verify, create, list, update, revoke, caller) = tokio::join!(
        verifier.verify(hurried(bound, check(not_held))),
        creator.create(hurried(bound, CreateRequest::default())),
        lister.list(hurried(bound, ListRequest::default())),
        changer.update_webhook(hurried(bound, hook)),
        revoker.revoke(hurried(bound, end)),
        caller.verify(own),
    );
    vec![
        ("verify", verify.unwrap_err()),
        ("create", create.unwrap_err()),
        ("list", list.unwrap_err()),
        ("update", update.unwrap_err()),
        ("revoke", revoke.unwrap_err()),
        ("caller", caller.unwrap_err()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_makes_calls_unavailable_in_time_and_is_found_again() {
    let mut scene = Scene::new().await;
    scene.away.proxy.down(true);
    let start = Instant::now();
    for (call, status) in calls(&scene.client, (&scene.id, &scene.not_held), BOUND).await {
        let refusal = Refusal::of(&status);
        assert_eq!((refusal.code, refusal.reason.as_str()), (tonic::Code::Unavailable, "UNAVAILABLE"), "{call}");
        assert_eq!(refusal.message, "Try again", "{call}");
        assert_public(&wire(&status));
    }
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    scene.lease_is_over().await;
    // Memory is not asked any more, for a key that it holds neither.
    let status = scene.client.verify(with(ROOT, check(&scene.held))).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    eventually(BOUND, "it is not ready", async || {
        scene.ready().await == 503 && scene.health().await == ServingStatus::NotServing
    })
    .await;
    scene.away.proxy.down(false);
    scene.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_answers_503_while_the_database_is_gone() {
    let scene = Scene::new().await;
    scene.away.proxy.down(true);
    for (method, path, bearer, body) in [
        ("POST", "/api/v1/verify", ROOT, json!({"secret": scene.not_held})),
        ("GET", "/api/v1/keys", scene.not_held.as_str(), Value::Null),
        ("POST", "/api/api-keys", ROOT, json!({"name": "x"})),
        ("GET", "/api/api-keys", ROOT, Value::Null),
    ] {
        let mut request = scene.server.rest(method, path).bearer_auth(bearer);
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 503, "{method} {path}");
        assert!(answer.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
        let text = answer.text().await.unwrap();
        assert_public(&text);
        let body: Value = serde_json::from_str(&text).unwrap();
        let expected = json!({"error": "Service Unavailable", "message": "Try again", "code": "unavailable"});
        assert_eq!(body, expected, "{method} {path}");
    }
}

/// A guess must cost the database nothing: with the database gone, what was not made here is still told apart at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_secret_is_malformed_without_the_database() {
    let mut scene = Scene::new().await;
    scene.away.proxy.silence(true);
    let start = Instant::now();
    for secret in [forged(&scene.not_held), forged(&scene.held), "nonsense".into(), "ak_".into(), "a".repeat(900_000)] {
        assert_eq!(code(&mut scene.client, &secret).await, Code::Malformed);
        let bad = scene.client.verify(with(&forged(&scene.not_held), check("x"))).await.unwrap_err();
        assert_eq!(bad.code(), tonic::Code::Unauthenticated);
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_database_costs_no_caller_more_than_its_deadline() {
    let scene = Scene::new().await;
    scene.away.proxy.silence(true);
    for bound in [Duration::from_secs(1), Duration::from_secs(2)] {
        let start = Instant::now();
        let answers = calls(&scene.client, (&scene.id, &scene.not_held), bound).await;
        let took = start.elapsed();
        for (call, status) in &answers {
            // The server itself says so: the client's own clock would bring no details.
            let refusal = Refusal::of(status);
            let expected = (tonic::Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
            assert_eq!((refusal.code, refusal.reason.as_str()), expected, "{call} {status:?}");
            assert_public(&wire(status));
        }
        assert!(took < bound, "{took:?}");
    }
    scene.away.proxy.silence(false);
    // The revocation was asked for: it may have been done or not, and repeating it is safe.
    let end = RevokeRequest { id: scene.id.clone(), reason: String::new() };
    let mut client = scene.client.clone();
    eventually(BOUND, "the revocation can be repeated", async || client.revoke(with(ROOT, end.clone())).await.is_ok())
        .await;
    assert_eq!(code(&mut client, &scene.held).await, Code::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_database_is_given_up_by_the_server_where_the_caller_names_no_deadline() {
    let mut scene = Scene::new().await;
    scene.away.proxy.silence(true);
    let start = Instant::now();
    let status = scene.client.verify(with(ROOT, check(&scene.not_held))).await.unwrap_err();
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    let given_up = [tonic::Code::Unavailable, tonic::Code::DeadlineExceeded];
    assert!(given_up.contains(&status.code()), "{status:?}");
    assert_public(&wire(&status));
    eventually(BOUND, "it is not ready", async || {
        scene.ready().await == 503 && scene.health().await == ServingStatus::NotServing
    })
    .await;
    scene.away.proxy.silence(false);
    scene.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_under_load_cost_no_wrong_answer() {
    let mut scene = Scene::new().await;
    let wrong = VerifyRequest { organization: "other".into(), ..check(&scene.held) };
    for _ in 0..10 {
        scene.away.proxy.cut();
        let made = scene.client.create(with(ROOT, CreateRequest::default())).await;
        if let Ok(response) = made {
            let made = made_of(response.into_inner());
            eventually(BOUND, "what was acknowledged is there", async || {
                match scene.client.verify(with(ROOT, check(&made))).await {
                    Ok(answer) => {
                        assert_eq!(answer.into_inner().code(), Code::Valid);
                        true
                    }
                    Err(status) => {
                        assert_public(&wire(&status));
                        false
                    }
                }
            })
            .await;
        }
        if let Ok(answer) = scene.client.verify(with(ROOT, wrong.clone())).await {
            assert_eq!(answer.into_inner().code(), Code::WrongOrganization);
        }
    }
    scene.recovers().await;
}

fn made_of(response: keyward::proto::CreateResponse) -> String {
    made(response).secret
}
