//! The database becomes unavailable under a running server, and comes back.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use keyward::proto::{Code, CreateRequest, ListRequest, RevokeRequest, UpdateWebhookRequest, VerifyRequest};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tonic::{Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    ProxiedDatabase, assert_public,
    support::{
        Server, Setup,
        grpc::{Client, Refusal, check, code, create, eventually, forged, key, made},
        server::{ROOT, with},
        stranger::Stranger,
    },
    wire,
};

/// Longer than any timeout of the server itself.
const BOUND: Duration = Duration::from_secs(12);

/// Calls at once on a connection without an authenticated call.
const MAX_STRANGER_CALLS: usize = 32;

/// A server whose database can be cut off, a key that is in its cache, and one that is not.
struct Scene {
    database: ProxiedDatabase,
    server: Server,
    client: Client,
    cached: String,
    not_cached: String,
    id: String,
}

impl Scene {
    async fn new() -> Self {
        Self::with_lease("3s").await
    }

    async fn with_lease(lease: &str) -> Self {
        let database = ProxiedDatabase::new().await;
        let server = Setup::new().database(&database.url).env("KEYWARD_REPLICA_LEASE", lease).start();
        let mut client = server.client().await;
        let cached = key(&mut client, "", "", &[]).await;
        assert_eq!(code(&mut client, &cached.secret).await, Code::Valid);
        let not_cached = key(&mut client, "", "", &[]).await.secret;
        Self { database, server, client, cached: cached.secret, not_cached, id: cached.id }
    }

    async fn health(&self) -> ServingStatus {
        let request = HealthCheckRequest { service: "keyward.v1.KeyService".into() };
        HealthClient::new(self.server.channel().await).check(request).await.unwrap().into_inner().status()
    }

    async fn ready(&self) -> u16 {
        self.server.call("GET", "/readyz", None, Value::Null).await.0
    }

    /// Waits until the lease has expired, so that memory does not answer.
    async fn wait_for_lease_expiry(&mut self) {
        let (mut client, cached) = (self.client.clone(), self.cached.clone());
        eventually(BOUND, "the lease expires", async || client.verify(with(ROOT, check(&cached))).await.is_err()).await;
    }

    /// Waits until everything works again without any help.
    async fn wait_for_recovery(&mut self) {
        let (mut client, secrets) = (self.client.clone(), [self.cached.clone(), self.not_cached.clone()]);
        for secret in &secrets {
            eventually(BOUND, "keys are valid again", async || {
                client
                    .verify(with(ROOT, check(secret)))
                    .await
                    .is_ok_and(|answer| answer.into_inner().code() == Code::Valid)
            })
            .await;
        }
        eventually(BOUND, "the server is ready again", async || {
            self.ready().await == 200 && self.health().await == ServingStatus::Serving
        })
        .await;
        create(&mut self.client, ROOT, CreateRequest::default()).await;
    }
}

fn with_timeout<T>(timeout: Duration, message: T) -> Request<T> {
    let mut request = with(ROOT, message);
    request.set_timeout(timeout);
    request
}

/// Makes one call of each kind that needs the database, at the same time and with the same timeout; returns their errors.
async fn failing_calls(client: &Client, scene: (&str, &str), bound: Duration) -> Vec<(&'static str, Status)> {
    let (id, not_cached) = scene;
    let end = RevokeRequest { id: id.into(), reason: String::new() };
    let update = UpdateWebhookRequest { id: id.into(), webhook_url: String::new(), ..Default::default() };
    // The caller's own key is not in the cache.
    let mut own = with_timeout(bound, check("x"));
    own.metadata_mut().insert("authorization", format!("Bearer {not_cached}").parse().unwrap());
    let mut clients: [Client; 6] = std::array::from_fn(|_| client.clone());
    let [verifier, creator, lister, changer, revoker, caller] = &mut clients;
    let (verify, create, list, update, revoke, caller) = tokio::join!(
        verifier.verify(with_timeout(bound, check(not_cached))),
        creator.create(with_timeout(bound, CreateRequest::default())),
        lister.list(with_timeout(bound, ListRequest::default())),
        changer.update_webhook(with_timeout(bound, update)),
        revoker.revoke(with_timeout(bound, end)),
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
async fn calls_are_unavailable_in_time_while_the_database_is_down_and_recover_with_it() {
    let mut scene = Scene::new().await;
    scene.database.proxy.down(true);
    let start = Instant::now();
    for (call, status) in failing_calls(&scene.client, (&scene.id, &scene.not_cached), BOUND).await {
        let refusal = Refusal::of(&status);
        assert_eq!((refusal.code, refusal.reason.as_str()), (tonic::Code::Unavailable, "UNAVAILABLE"), "{call}");
        assert_eq!(refusal.message, "Try again", "{call}");
        assert_public(&wire(&status));
    }
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    scene.wait_for_lease_expiry().await;
    // Without a lease the cache does not answer, not even for a key that it holds.
    let status = scene.client.verify(with(ROOT, check(&scene.cached))).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    eventually(BOUND, "the server is not ready", async || {
        scene.ready().await == 503 && scene.health().await == ServingStatus::NotServing
    })
    .await;
    scene.database.proxy.down(false);
    scene.wait_for_recovery().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_answers_503_while_the_database_is_down() {
    let scene = Scene::new().await;
    scene.database.proxy.down(true);
    for (method, path, bearer, body) in [
        ("POST", "/api/v1/verify", ROOT, json!({"secret": scene.not_cached})),
        ("GET", "/api/v1/keys", scene.not_cached.as_str(), Value::Null),
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

/// Guessed secrets must not cost the database anything, so they are refused at once even while it is silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_secret_is_malformed_without_the_database() {
    let mut scene = Scene::new().await;
    scene.database.proxy.silence(true);
    let start = Instant::now();
    for secret in
        [forged(&scene.not_cached), forged(&scene.cached), "nonsense".into(), "ak_".into(), "a".repeat(900_000)]
    {
        assert_eq!(code(&mut scene.client, &secret).await, Code::Malformed);
        let bad = scene.client.verify(with(&forged(&scene.not_cached), check("x"))).await.unwrap_err();
        assert_eq!(bad.code(), tonic::Code::Unauthenticated);
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_database_delays_no_call_past_its_deadline() {
    // Longer than all calls together: without a lease the answer is UNAVAILABLE.
    let scene = Scene::with_lease("10s").await;
    scene.database.proxy.silence(true);
    for bound in [Duration::from_secs(1), Duration::from_secs(2)] {
        let start = Instant::now();
        let answers = failing_calls(&scene.client, (&scene.id, &scene.not_cached), bound).await;
        let took = start.elapsed();
        for (call, status) in &answers {
            // The error is the server's: one of the client's own timer would have no details.
            let refusal = Refusal::of(status);
            let expected = (tonic::Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
            assert_eq!((refusal.code, refusal.reason.as_str()), expected, "{call} {status:?}");
            assert_public(&wire(status));
        }
        assert!(took < bound, "{took:?}");
    }
    scene.database.proxy.silence(false);
    // The revocation may or may not be committed. Repeating it is safe.
    let end = RevokeRequest { id: scene.id.clone(), reason: String::new() };
    let mut client = scene.client.clone();
    eventually(BOUND, "the revocation can be repeated", async || client.revoke(with(ROOT, end.clone())).await.is_ok())
        .await;
    assert_eq!(code(&mut client, &scene.cached).await, Code::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_database_times_out_where_the_caller_sets_no_deadline() {
    let mut scene = Scene::new().await;
    scene.database.proxy.silence(true);
    let start = Instant::now();
    let status = scene.client.verify(with(ROOT, check(&scene.not_cached))).await.unwrap_err();
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    let given_up = [tonic::Code::Unavailable, tonic::Code::DeadlineExceeded];
    assert!(given_up.contains(&status.code()), "{status:?}");
    assert_public(&wire(&status));
    eventually(BOUND, "the server is not ready", async || {
        scene.ready().await == 503 && scene.health().await == ServingStatus::NotServing
    })
    .await;
    scene.database.proxy.silence(false);
    scene.wait_for_recovery().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_database_connections_cause_no_wrong_answer() {
    let mut scene = Scene::new().await;
    let wrong = VerifyRequest { organization: "other".into(), ..check(&scene.cached) };
    for _ in 0..10 {
        scene.database.proxy.cut();
        let made = scene.client.create(with(ROOT, CreateRequest::default())).await;
        if let Ok(response) = made {
            let made = made_of(response.into_inner());
            eventually(BOUND, "the acknowledged key is verified", async || {
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
    scene.wait_for_recovery().await;
}

fn made_of(response: keyward::proto::CreateResponse) -> String {
    made(response).secret
}

/// The attack: a stranger's calls wait for the database, so that further ones of the connection wait for those.
#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_a_call_counts_from_its_arrival_also_where_it_waits_for_a_permit() {
    let scene = Scene::with_lease("20s").await;
    let mut stranger = Stranger::new(TcpStream::connect(&scene.server.grpc).await.unwrap()).await;
    scene.database.proxy.silence(true);
    let calls = FuturesUnordered::new();
    let named = async |name: &'static str, status: BoxFuture<'static, String>| (name, status.await);
    for _ in 0..MAX_STRANGER_CALLS {
        calls.push(named("has a turn", stranger.verify(&scene.not_cached, "2S")));
    }
    calls.push(named("gets no turn", stranger.verify(&scene.not_cached, "1S")));
    let ended: Vec<_> = calls.collect().await;
    assert_eq!(ended[0], ("gets no turn", "4".to_owned()), "DEADLINE_EXCEEDED: {ended:?}");
}
