//! An agent answers as its replica, field by field, whoever asks: before its memory knows a key, and from memory.

use std::time::Duration;

use keyward::proto::{Code, CreateRequest, VerifyRequest};

use crate::{
    Answer, BUILDS, MANY_REFUSALS, key,
    process::{Agent, AgentSetup},
    service_key,
    support::{
        Server, Setup,
        grpc::{self, Made, own_limit, pairs, texts, ttl},
        server::ROOT,
    },
    verify,
};

/// A second keyspace.
const OTHER: &str = r#"
[[keyspace]]
name = "other"
prefix = "oth_"
secret = { encoding = "alphanumeric", length = 32 }
"#;
/// That of another installation, too.
const MASTER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn setup() -> Setup {
    Setup::new().config(&[MANY_REFUSALS, BUILDS, OTHER].concat()).env("KEYWARD_MASTER_KEY", MASTER_KEY)
}

/// Keys of every kind, without a rate limit.
struct Keys {
    valid: Made,
    secrets: Vec<(&'static str, String)>,
}

async fn keys(server: &Server) -> Keys {
    let bound = CreateRequest {
        keyspace: "builds".into(),
        organization: "acme".into(),
        instance: "eu-1".into(),
        environment: "production".into(),
        name: "Zoë's CI".into(),
        scopes: texts(&["build", "admin"]),
        metadata: pairs(&[("tier", "gold"), ("team", "α")]).into_iter().collect(),
        expiry: ttl(Duration::from_secs(3_600)),
        ..CreateRequest::default()
    };
    let of = |keyspace: &str| CreateRequest { keyspace: keyspace.into(), ..CreateRequest::default() };
    let (valid, plain, other) =
        (key(server, bound).await, key(server, of("builds")).await, key(server, of("other")).await);
    let (revoked, expired) = (
        key(server, of("builds")).await,
        key(server, CreateRequest { expiry: ttl(Duration::from_secs(2)), ..of("builds") }).await,
    );
    let mut operator = server.client().await;
    grpc::revoke(&mut operator, &revoked.id).await;
    grpc::until_expired(&mut operator, &expired.secret).await;
    // Well-formed here, and of another database.
    let elsewhere = key(&setup().start(), of("builds")).await;
    let secrets = vec![
        ("valid", valid.secret.clone()),
        ("plain", plain.secret),
        ("other", other.secret),
        ("revoked", revoked.secret),
        ("expired", expired.secret),
        ("unknown", elsewhere.secret),
        ("forged", grpc::forged(&valid.secret)),
        ("empty", String::new()),
        ("long", "x".repeat(10_000)),
    ];
    Keys { valid, secrets }
}

/// Checks of every kind of a secret.
fn checks(secret: &str) -> Vec<VerifyRequest> {
    let bare = grpc::check(secret);
    let scopes = |scopes: &[&str]| VerifyRequest { required_scopes: texts(scopes), ..bare.clone() };
    vec![
        bare.clone(),
        VerifyRequest { keyspace: "builds".into(), ..bare.clone() },
        VerifyRequest { keyspace: "other".into(), ..bare.clone() },
        VerifyRequest { keyspace: "none".into(), ..bare.clone() },
        VerifyRequest { organization: "acme".into(), instance: "eu-1".into(), ..bare.clone() },
        VerifyRequest { organization: "ACME".into(), ..bare.clone() },
        VerifyRequest { instance: "us-1".into(), ..bare.clone() },
        VerifyRequest { environment: "production".into(), ..bare.clone() },
        VerifyRequest { environment: "sandbox".into(), ..bare.clone() },
        scopes(&["build"]),
        scopes(&["admin", "build"]),
        scopes(&["deploy", "build"]),
        VerifyRequest { cost: Some(0), ..bare.clone() },
        VerifyRequest { cost: Some(7), ..bare.clone() },
        // What no key can match is refused, also where memory has the key.
        VerifyRequest { organization: "a".repeat(200), ..bare.clone() },
        VerifyRequest { required_scopes: vec!["build".to_owned(); 65], ..bare.clone() },
        scopes(&["two words"]),
    ]
}

/// The callers, and what each presents.
async fn callers(server: &Server) -> Vec<(&'static str, String)> {
    let mut operator = server.client().await;
    let revoked = service_key(server, &[]).await;
    grpc::revoke(&mut operator, &revoked.id).await;
    let product = grpc::key(&mut operator, "builds", "", &["admin"]).await;
    vec![
        ("root", ROOT.to_owned()),
        ("service", service_key(server, &[]).await.secret),
        ("limited", service_key(server, &["builds"]).await.secret),
        ("limited to the other", service_key(server, &["other"]).await.secret),
        ("revoked", revoked.secret),
        ("a product's key", product.secret),
        ("nobody's", "kw_nobody".to_owned()),
    ]
}

/// Compares every answer of an agent with the replica's.
async fn assert_same(server: &Server, agent: &Agent, keys: &Keys, callers: &[(&str, String)]) {
    for (caller, credential) in callers {
        for (kind, secret) in &keys.secrets {
            // A connection ends after a number of refused credentials in a row, at both.
            let (mut at_replica, mut at_agent) = (server.client().await, agent.client().await);
            for request in checks(secret) {
                let case = format!("{caller}, {kind}: {:?} {:?}", request.keyspace, request.required_scopes);
                let expected: Answer = verify(&mut at_replica, credential, request.clone()).await;
                let got: Answer = verify(&mut at_agent, credential, request).await;
                assert_eq!(got, expected, "{case}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_answers_as_its_replica_from_memory_and_by_calls() {
    let server = setup().start();
    let (keys, callers) = (keys(&server).await, callers(&server).await);
    let agent = AgentSetup::of(&server).start().await;
    assert_same(&server, &agent, &keys, &callers).await;
    for caller in &callers[..3] {
        agent.warm(&caller.1, &keys.valid.secret).await;
    }
    let before = agent.answered_by_memory("verify").await;
    assert_same(&server, &agent, &keys, &callers).await;
    let answered = agent.answered_by_memory("verify").await - before;
    assert!(answered >= 3 * 8, "memory gave {answered} answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_limited_to_keyspaces_answers_as_its_replica() {
    let server = setup().start();
    let (keys, callers) = (keys(&server).await, callers(&server).await);
    let own = service_key(&server, &["builds"]).await.secret;
    let agent = AgentSetup::of(&server).credential(&own).start().await;
    agent.warm(&own, &keys.valid.secret).await;
    assert_same(&server, &agent, &keys, &callers).await;
    assert_same(&server, &agent, &keys, &[("own", own)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keys_limit_is_the_same_at_the_agent_and_at_the_replica() {
    let server = setup().start();
    let limited = key(
        &server,
        CreateRequest { keyspace: "builds".into(), rate_limit: Some(own_limit(6, 3_600)), ..CreateRequest::default() },
    )
    .await;
    let agent = AgentSetup::of(&server).start().await;
    let (mut at_replica, mut at_agent) = (server.client().await, agent.client().await);
    let mut codes = Vec::new();
    for turn in 0..8 {
        let client = if turn % 2 == 0 { &mut at_agent } else { &mut at_replica };
        let answer = verify(client, ROOT, grpc::check(&limited.secret)).await.unwrap();
        let state = answer.rate_limit.expect("the state of the limit");
        codes.push((answer.code(), state.remaining));
    }
    let expected = [5, 4, 3, 2, 1, 0].map(|remaining| (Code::Valid, remaining)).into_iter();
    assert_eq!(codes, expected.chain([(Code::RateLimited, 0); 2]).collect::<Vec<_>>());
    assert_eq!(agent.metric("keyward_agent_keys").await, 0, "a key with a limit is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_calls_name_the_replica() {
    let server = setup().start();
    let agent = AgentSetup::of(&server).start().await;
    let mut client = agent.client().await;
    let created = client.create(crate::with(ROOT, CreateRequest::default())).await.unwrap_err();
    let listed = client.list(crate::with(ROOT, keyward::proto::ListRequest::default())).await.unwrap_err();
    for refusal in [created, listed] {
        assert_eq!(refusal.code(), tonic::Code::Unimplemented);
        assert!(refusal.message().contains(&format!("http://{}", server.grpc)), "{}", refusal.message());
    }
}
