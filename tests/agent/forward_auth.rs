//! Gateways that ask an agent over HTTP: the answers of the replica.

use std::collections::BTreeMap;

use keyward::proto::CreateRequest;

use crate::{
    LONG,
    check::{World, world},
    key,
    process::AgentSetup,
    proxy::Proxy,
    support::grpc::{self, eventually, own_limit},
};

/// What a gateway gets: the status, the headers that say something, and the body.
type Response = (u16, BTreeMap<String, String>, String);

async fn get_response(address: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.get(format!("http://{address}/forward-auth/{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.header("x-request-id", "req_of_the_test").send().await.unwrap();
    let connection = ["date", "content-length", "connection"];
    let headers = response.headers().iter().filter(|(name, _)| !connection.contains(&name.as_str()));
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    (response.status().as_u16(), headers, response.text().await.unwrap())
}

/// Paths, and the headers of a gateway beside its credential.
fn requests(world: &World) -> Vec<(&'static str, Vec<(&'static str, String)>)> {
    let bearer = format!("Bearer {}", world.build.secret);
    let nginx =
        |method: &str, uri: &str| vec![("x-original-method", method.to_owned()), ("x-original-uri", uri.to_owned())];
    let forwarded =
        |method: &str, uri: &str| vec![("x-forwarded-method", method.to_owned()), ("x-forwarded-uri", uri.to_owned())];
    let with = |mut described: Vec<(&'static str, String)>, more: &[(&'static str, &str)]| {
        described.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        described
    };
    let auth = [("authorization", &*bearer)];
    vec![
        ("nginx/builds", with(nginx("GET", "/api/build/1"), &auth)),
        ("nginx/builds", with(nginx("POST", "/api/build?orgId=acme"), &auth)),
        ("nginx/builds", with(nginx("GET", "/api/build?orgId=other"), &auth)),
        ("nginx/builds", with(nginx("DELETE", "/api/build/1"), &auth)),
        ("nginx/builds", with(nginx("GET", "/api/env/x"), &auth)),
        ("nginx/builds", with(nginx("GET", "/api/build/../env/x"), &auth)),
        ("nginx/builds", nginx("GET", "/api/build/1")),
        ("nginx/builds", with(nginx("GET", "/api/build/1"), &[("authorization", "Bearer bld_forged")])),
        ("nginx/builds", with(nginx("GET", "/api/build/1"), &[auth[0], ("x-forwarded-uri", "/api/env/x")])),
        ("nginx/builds", auth.map(|(name, value)| (name, value.to_owned())).into()),
        ("nginx/none", with(nginx("GET", "/api/build/1"), &auth)),
        ("caddy/builds", with(forwarded("GET", "/api/build/1"), &auth)),
        ("caddy/builds/production", with(forwarded("GET", "/api/build/1"), &auth)),
        ("traefik/builds", with(forwarded("GET", "/api/env/x"), &auth)),
        ("traefik/builds", with(nginx("GET", "/api/build/1"), &auth)),
        ("envoy/builds", with(nginx("GET", "/api/build/1"), &auth)),
        ("nginx", Vec::new()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_answers_gateways_over_http_as_its_replica() {
    let world = world().await;
    let agent = AgentSetup::of(&world.server).arg("--config", &world.config()).start().await;
    for warm in [false, true] {
        if warm {
            world.warm(&agent, &world.callers[0]).await;
        }
        let before = agent.answered_by_memory("check").await;
        for credential in world.callers.iter().map(String::as_str).chain([""]) {
            for (path, described) in requests(&world) {
                let mut headers: Vec<_> = described.iter().map(|(name, value)| (*name, value.as_str())).collect();
                if !credential.is_empty() {
                    headers.push(("x-keyward-gateway", credential));
                }
                let expected = get_response(&world.server.http, path, &headers).await;
                let got = get_response(&agent.http, path, &headers).await;
                assert_eq!(got, expected, "{credential} {path} {described:?}");
            }
        }
        assert!(!warm || agent.answered_by_memory("check").await > before, "memory has answered");
    }
    let elsewhere = reqwest::Client::builder().no_proxy().build().unwrap();
    let elsewhere = elsewhere.get(format!("http://{}/api/v1/keys", agent.http)).send().await.unwrap();
    assert_eq!(elsewhere.status().as_u16(), 404);
    assert!(elsewhere.text().await.unwrap().contains(&world.server.grpc));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_a_revoke_and_the_end_of_the_replica_show_over_http() {
    let world = world().await;
    let proxy = Proxy::start(world.server.grpc.parse().unwrap()).await;
    let agent = AgentSetup::at(&proxy.address().to_string()).arg("--config", &world.config()).start().await;
    let limited =
        CreateRequest { keyspace: "builds".into(), rate_limit: Some(own_limit(2, 3_600)), ..CreateRequest::default() };
    let limited = key(&world.server, limited).await;
    let get = async |secret: &str| {
        let bearer = format!("Bearer {secret}");
        let described = [("x-original-method", "GET"), ("x-original-uri", "/api/build/1"), ("authorization", &*bearer)];
        let gateway = [("x-keyward-gateway", &*world.callers[0])];
        get_response(&agent.http, "nginx/builds", &[&described[..], &gateway].concat()).await
    };
    for (status, remaining) in [(200, "1"), (200, "0"), (429, "0")] {
        let (got, headers, _) = get(&limited.secret).await;
        assert_eq!((got, headers["x-ratelimit-remaining"].as_str()), (status, remaining));
    }
    world.warm(&agent, &world.callers[0]).await;
    assert_eq!(get(&world.build.secret).await.0, 200);
    grpc::revoke(&mut world.server.client().await, &world.build.id).await;
    let (status, headers, body) = get(&world.build.secret).await;
    assert!(status == 401 && body.contains("\"revoked\""), "{status} {body}");
    assert_eq!(headers["x-keyward-body"], body);
    proxy.down(true);
    eventually(LONG, "nothing can be decided", async || {
        let (status, headers, _) = get(&world.build.secret).await;
        status == 503 && headers.contains_key("retry-after")
    })
    .await;
}
