//! Envoy's Check at an agent: the answers of the replica, from memory where the agent has the replica's own configuration.

use keyward::proto::{
    CreateRequest,
    envoy::{
        config::core::v3::HeaderValueOption,
        service::auth::v3::{
            CheckRequest, CheckResponse, authorization_client::AuthorizationClient, check_response::HttpResponse,
        },
    },
};
use tonic::transport::Channel;

use crate::{
    BUILDS, LONG, MANY_REFUSALS, key,
    process::{Agent, AgentSetup},
    proxy::Proxy,
    service_key,
    support::{
        Server, Setup, ext_authz,
        grpc::{self, Refusal, eventually, own_limit, texts},
        server::with,
    },
};

/// What follows the keyspace `builds`: its rules for gateways, and a keyspace with environments.
const RULES: &str = r#"
credential = "bearer"
gateway = { strip_credential = true, org_param = "orgId" }

[[keyspace.route]]
methods = ["GET", "POST"]
path = "/api/build/*"
scopes = ["build"]

[[keyspace.route]]
path = "/api/env/{name}"
scopes = ["admin"]

[[keyspace]]
name = "cloud"
prefix = { sandbox = "cs_", production = "cp_" }
secret = { encoding = "alphanumeric", length = 32 }
credential = "x-api-key"
require = ["environment"]

[http]
environment = "production"
"#;

fn config() -> String {
    [MANY_REFUSALS, BUILDS, RULES].concat()
}

type Gateway = AuthorizationClient<Channel>;

fn request(method: &str, path: &str, headers: &[(&str, &str)], extensions: &[(&str, &str)]) -> CheckRequest {
    // The answer repeats a request id: all answers to one request have the same.
    let headers: Vec<_> = headers.iter().copied().chain([("x-request-id", "req_of_the_test")]).collect();
    ext_authz::request(method, path, &headers, extensions)
}

/// The answer to a caller, or its refusal. The order of headers says nothing.
async fn get_response(client: &mut Gateway, credential: &str, request: CheckRequest) -> Result<CheckResponse, Refusal> {
    let answer = client.check(with(credential, request)).await;
    let mut answer = answer.map(tonic::Response::into_inner).map_err(|status| Refusal::of(&status))?;
    let name = |option: &HeaderValueOption| option.header.as_ref().map(|header| header.key.clone());
    match &mut answer.http_response {
        Some(HttpResponse::OkResponse(ok)) => {
            ok.headers.sort_by_key(name);
            ok.response_headers_to_add.sort_by_key(name);
            ok.headers_to_remove.sort();
        }
        Some(HttpResponse::DeniedResponse(denied) | HttpResponse::ErrorResponse(denied)) => {
            denied.headers.sort_by_key(name);
        }
        None => {}
    }
    Ok(answer)
}

pub struct World {
    pub server: Server,
    requests: Vec<CheckRequest>,
    pub callers: Vec<String>,
    /// The one that must pass from memory.
    passing: CheckRequest,
    pub build: grpc::Made,
}

pub async fn world() -> World {
    let server = Setup::new().config(&config()).start();
    let of = |keyspace: &str| CreateRequest { keyspace: keyspace.into(), ..CreateRequest::default() };
    let bound = CreateRequest {
        organization: "acme".into(),
        name: "Zoë 100%".into(),
        scopes: texts(&["build"]),
        ..of("builds")
    };
    let build = key(&server, bound).await;
    let revoked = key(&server, of("builds")).await;
    grpc::revoke(&mut server.client().await, &revoked.id).await;
    let environment = |name: &str| CreateRequest { environment: name.into(), ..of("cloud") };
    let (production, sandbox) =
        (key(&server, environment("production")).await, key(&server, environment("sandbox")).await);
    let bearer = |secret: &str| format!("Bearer {secret}");
    let (build_bearer, revoked) = (bearer(&build.secret), bearer(&revoked.secret));
    let auth = [("authorization", &*build_bearer)];
    let builds = [("keyspace", "builds")];
    let cloud = [("keyspace", "cloud")];
    let mut requests = Vec::new();
    for (method, path) in [
        ("GET", "/api/build/1"),
        ("POST", "/api/build?orgId=acme&x=1"),
        ("GET", "/api/build?orgId=other"),
        ("GET", "/api/build?orgId=acme&orgId=other"),
        ("DELETE", "/api/build/1"),
        ("GET", "/api/env/x"),
        ("GET", "/api/else"),
        ("GET", "/api/build/../env/x"),
        ("GET", "/api/build//x"),
        ("GET", "/api/buil%64/x"),
    ] {
        requests.push(request(method, path, &auth, &builds));
    }
    for headers in [
        &[][..],
        &[("authorization", &*revoked)],
        &[("authorization", "Bearer bld_forged")],
        &[("authorization", &*build_bearer), ("x-api-key", &*production.secret)],
        &[("authorization", &*build_bearer), ("x-keyward-organization", "evil"), ("x_keyward_role", "evil")],
        &[("x-api-key", &*build.secret)],
        &[("authorization", "Basic abc")],
    ] {
        requests.push(request("GET", "/api/build/1", headers, &builds));
    }
    for extensions in [
        &[][..],
        &[("keyspace", "none")],
        &[("keyspace", "builds"), ("organization", "acme")],
        &[("keyspace", "builds"), ("organization", "other")],
        &[("keyspace", "builds"), ("environment", "production")],
    ] {
        requests.push(request("GET", "/api/build/1", &auth, extensions));
    }
    for headers in [
        [("x-api-key", &*production.secret)],
        [("x-api-key", &*sandbox.secret)],
        [("authorization", &*bearer(&production.secret))],
    ] {
        requests.push(request("GET", "/anything", &headers, &cloud));
    }
    let callers = vec![
        service_key(&server, &[]).await.secret,
        service_key(&server, &["builds"]).await.secret,
        service_key(&server, &["cloud"]).await.secret,
        build.secret.clone(),
        "kw_nobody".to_owned(),
    ];
    let passing = request("GET", "/api/build/1", &auth, &builds);
    World { server, requests, callers, passing, build }
}

impl World {
    pub fn config(&self) -> String {
        self.server.folder().join("keyward.toml").display().to_string()
    }

    async fn assert_same(&self, agent: &Agent) {
        for credential in &self.callers {
            for request in &self.requests {
                // A connection ends after a number of refused credentials in a row, at both.
                let mut at_replica = Gateway::new(self.server.channel().await);
                let mut at_agent = Gateway::new(agent.channel().await);
                let expected = get_response(&mut at_replica, credential, request.clone()).await;
                let got = get_response(&mut at_agent, credential, request.clone()).await;
                assert_eq!(got, expected, "{credential} {request:?}");
            }
        }
    }

    /// Waits until memory answers.
    pub async fn warm(&self, agent: &Agent, credential: &str) {
        let mut client = Gateway::new(agent.channel().await);
        eventually(LONG, "memory answers", async || {
            let before = agent.answered_by_memory("check").await;
            let answer = get_response(&mut client, credential, self.passing.clone()).await.unwrap();
            assert!(passes(&answer));
            agent.answered_by_memory("check").await > before
        })
        .await;
    }
}

fn passes(answer: &CheckResponse) -> bool {
    matches!(answer.http_response, Some(HttpResponse::OkResponse(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_answers_envoy_as_its_replica() {
    let world = world().await;
    for config in [None, Some(world.config())] {
        let setup = AgentSetup::of(&world.server);
        let setup = match &config {
            None => setup,
            Some(path) => setup.arg("--config", path),
        };
        let agent = setup.start().await;
        world.assert_same(&agent).await;
        if config.is_some() {
            world.warm(&agent, &world.callers[0]).await;
            world.warm(&agent, &world.callers[1]).await;
        }
        let before = agent.answered_by_memory("check").await;
        world.assert_same(&agent).await;
        let answered = agent.answered_by_memory("check").await - before;
        assert_eq!(answered > 8, config.is_some(), "memory gave {answered} answers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_other_rules_than_its_replica_asks_it() {
    let world = world().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keyward.toml");
    // A route that the replica does not have.
    std::fs::write(&path, config().replace("{name}\"\nscopes = [\"admin\"]", "{name}\"")).unwrap();
    let agent = AgentSetup::of(&world.server).arg("--config", &path.display().to_string()).start().await;
    let mut client = Gateway::new(agent.channel().await);
    // Memory has the key.
    agent.warm(&world.callers[0], &world.build.secret).await;
    let bearer = format!("Bearer {}", world.build.secret);
    let headers = [("authorization", &*bearer)];
    for _ in 0..20 {
        let request = request("GET", "/api/env/x", &headers, &[("keyspace", "builds")]);
        assert!(
            !passes(&get_response(&mut client, &world.callers[0], request).await.unwrap()),
            "the agent's own rules"
        );
    }
    world.assert_same(&agent).await;
    assert_eq!(agent.answered_by_memory("check").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_passes_after_a_revoke_and_what_cannot_be_decided_is_503() {
    let world = world().await;
    let proxy = Proxy::start(world.server.grpc.parse().unwrap()).await;
    let agent = AgentSetup::at(&proxy.address().to_string()).arg("--config", &world.config()).start().await;
    let mut client = Gateway::new(agent.channel().await);
    world.warm(&agent, &world.callers[0]).await;
    let limited =
        CreateRequest { keyspace: "builds".into(), rate_limit: Some(own_limit(9, 60)), ..CreateRequest::default() };
    let limited = key(&world.server, limited).await;
    proxy.down(true);
    // The lease lasts: the caller is known, and the key is not in memory.
    let bearer = format!("Bearer {}", limited.secret);
    let unknown = request("GET", "/api/build/1", &[("authorization", &bearer)], &[("keyspace", "builds")]);
    let answer = get_response(&mut client, &world.callers[0], unknown).await;
    match answer {
        Ok(answer) => {
            let Some(HttpResponse::ErrorResponse(error)) = answer.http_response else { panic!("{answer:?}") };
            assert_eq!(error.status.unwrap().code, 503);
        }
        // Unless the machine was slow.
        Err(refusal) => assert_eq!(refusal.code, tonic::Code::Unavailable),
    }
    proxy.down(false);
    world.warm(&agent, &world.callers[0]).await;
    grpc::revoke(&mut world.server.client().await, &world.build.id).await;
    assert!(!passes(&get_response(&mut client, &world.callers[0], world.passing.clone()).await.unwrap()));
}
