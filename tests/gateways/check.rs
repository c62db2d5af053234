//! `envoy.service.auth.v3.Authorization/Check`, as Envoy calls it.

use std::collections::BTreeMap;

use keyward::proto::envoy::{
    config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption},
    service::auth::v3::{
        AttributeContext, CheckRequest, CheckResponse, authorization_client::AuthorizationClient,
        check_response::HttpResponse,
    },
};
use prost_types::value::Kind;
use serde_json::json;
use tonic::{Code, transport::Channel};

use crate::{
    support::{
        Setup,
        ext_authz::request,
        grpc,
        server::{ROOT, with},
    },
    world::{CI_IDENTITY, World},
};

const IDENTITY: [&str; 9] = [
    "x-keyward-environment",
    "x-keyward-instance",
    "x-keyward-key-id",
    "x-keyward-keyspace",
    "x-keyward-name",
    "x-keyward-organization",
    "x-keyward-role",
    "x-keyward-scopes",
    "x-keyward-subject",
];

pub async fn client(world: &World) -> AuthorizationClient<Channel> {
    AuthorizationClient::new(world.server.channel().await)
}

pub async fn ask(world: &World, request: CheckRequest) -> CheckResponse {
    client(world).await.check(with(&world.gateway, request)).await.unwrap().into_inner()
}

fn headers(list: &[HeaderValueOption]) -> BTreeMap<&str, &str> {
    let pairs = list.iter().map(|option| {
        let header = option.header.as_ref().unwrap();
        (header.key.as_str(), header.value.as_str())
    });
    let map: BTreeMap<_, _> = pairs.collect();
    assert_eq!(map.len(), list.len(), "no header is there twice");
    map
}

/// The request passes: its identity headers, and what is removed.
#[track_caller]
fn passes(response: &CheckResponse) -> (BTreeMap<&str, &str>, Vec<&str>) {
    assert_eq!(response.status.as_ref().unwrap().code, 0, "{response:?}");
    let Some(HttpResponse::OkResponse(ok)) = &response.http_response else { panic!("{response:?}") };
    let identity = headers(&ok.headers);
    assert_eq!(identity.keys().copied().collect::<Vec<_>>(), IDENTITY);
    let metadata = response.dynamic_metadata.as_ref().unwrap();
    let fields = metadata.fields.iter().map(|(name, value)| match &value.kind {
        Some(Kind::StringValue(text)) => (name.as_str(), text.as_str()),
        other => panic!("{name}: {other:?}"),
    });
    assert_eq!(fields.collect::<BTreeMap<_, _>>(), identity, "dynamic metadata is the same");
    assert!(headers(&ok.response_headers_to_add).contains_key("x-request-id"));
    (identity, ok.headers_to_remove.iter().map(String::as_str).collect())
}

/// The refusal: status and code of its body.
#[track_caller]
pub fn refused(response: &CheckResponse) -> (i32, String) {
    assert_ne!(response.status.as_ref().unwrap().code, 0, "{response:?}");
    let Some(HttpResponse::DeniedResponse(denied)) = &response.http_response else { panic!("{response:?}") };
    let body: serde_json::Value = serde_json::from_str(&denied.body).unwrap();
    let headers = headers(&denied.headers);
    let status = denied.status.as_ref().unwrap().code;
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers.contains_key("www-authenticate"), status == 401);
    assert!(headers.contains_key("x-request-id"));
    (status, body["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_request_that_passes_carries_the_identity_and_nothing_of_the_clients_own() {
    let world = World::new().await;
    let key = world.norrix(&["build"]).await;
    let bearer = key.bearer();
    let sent = [
        ("authorization", bearer.as_str()),
        ("x-request-id", "req_of_the_test"),
        ("x-keyward-organization", "evil"),
        ("x-keyward-other", "evil"),
        ("x_keyward_organization", "evil"),
        ("x.keyward.role", "evil"),
        ("X-Keyward-Gateway", "evil"),
        ("x-keywardly", "not ours"),
    ];
    let about = || request("GET", "/api/build?orgId=acme", &sent, &[("keyspace", "norrix")]);
    let response = ask(&world, about()).await;
    let sorted = |mut response: CheckResponse| {
        if let Some(HttpResponse::OkResponse(ok)) = &mut response.http_response {
            ok.headers_to_remove.sort_unstable();
        }
        response
    };
    // The first one needed the database. Memory answers the others, by another way that must say the same.
    for _ in 0..3 {
        assert_eq!(sorted(ask(&world, about()).await), sorted(response.clone()));
    }
    let (identity, mut removed) = passes(&response);
    for (name, value) in CI_IDENTITY.into_iter().chain([("x-keyward-key-id", key.id.as_str())]) {
        assert_eq!(identity[name], value, "{name}");
    }
    // Envoy removes after it has set: none of those that are set may be named.
    removed.sort_unstable();
    let expected =
        ["X-Keyward-Gateway", "authorization", "x-keyward-other", "x.keyward.role", "x_keyward_organization"];
    assert_eq!(removed, expected);
    let Some(HttpResponse::OkResponse(ok)) = &response.http_response else { unreachable!() };
    assert_eq!(headers(&ok.response_headers_to_add)["x-request-id"], "req_of_the_test");
}

/// Lengths in a message take one byte up to 127, and then two.
#[tokio::test]
async fn memory_writes_long_values_as_messages_do() {
    let world = World::new().await;
    // With its name, a value of 98 bytes is the first that memory writes otherwise.
    let names = (88..=120).map(|length| "n".repeat(length)).chain(["Zoë".repeat(60)]);
    for name in names {
        let key = json!({"keyspace": "norrix", "orgId": "acme", "scopes": ["build"], "name": name});
        let bearer = world.key(key).await.bearer();
        let sent = [("authorization", bearer.as_str()), ("x-request-id", "req_of_the_test")];
        let about = || request("GET", "/api/build", &sent, &[("keyspace", "norrix")]);
        let response = ask(&world, about()).await;
        assert_eq!(passes(&response).0["x-keyward-name"], name.replace('ë', "%C3%AB"));
        assert_eq!(ask(&world, about()).await, response, "{name}");
    }
}

#[tokio::test]
async fn only_gateways_get_decisions() {
    let world = World::new().await;
    let key = world.norrix(&["build", "admin"]).await;
    let about = || request("GET", "/api/build", &[("authorization", &key.bearer())], &[("keyspace", "norrix")]);
    let mut client = client(&world).await;
    for good in [world.gateway.as_str(), ROOT] {
        passes(&client.check(with(good, about())).await.unwrap().into_inner());
    }
    for bad in ["garbage", &key.secret, &grpc::forged(&world.gateway)] {
        assert_eq!(client.check(with(bad, about())).await.unwrap_err().code(), Code::Unauthenticated, "{bad}");
    }
    assert_eq!(client.check(about()).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn each_bad_input_has_an_answer_and_none_passes() {
    let world = World::new().await;
    let key = world.norrix(&["build"]).await;
    let nora = world.nora("sandbox").await;
    let bearer = key.bearer();
    let auth = [("authorization", bearer.as_str())];
    let merged = format!("{bearer},{bearer}");
    let norrix = [("keyspace", "norrix")];
    let in_nora = |environment: &'static str| [("keyspace", "nora"), ("environment", environment)];
    let long = "x".repeat(129);
    for (case, request, expected) in [
        ("no attributes", CheckRequest { attributes: None }, (400, "invalid_argument")),
        ("empty attributes", CheckRequest { attributes: Some(AttributeContext::default()) }, (400, "invalid_argument")),
        ("no keyspace", request("GET", "/api/build", &auth, &[]), (400, "invalid_argument")),
        ("an unknown one", request("GET", "/api/build", &auth, &[("keyspace", "nosuch")]), (400, "invalid_argument")),
        ("our own", request("GET", "/api/build", &auth, &[("keyspace", "keyward")]), (400, "invalid_argument")),
        ("no request", request("", "", &[], &norrix), (401, "missing_credential")),
        ("no path", request("GET", "", &auth, &norrix), (400, "ambiguous_path")),
        ("no method", request("", "/api/build", &auth, &norrix), (403, "no_route")),
        ("two merged", request("GET", "/api/build", &[("authorization", &merged)], &norrix), (401, "malformed")),
        (
            "a comma",
            request("GET", "/api/build", &[("authorization", &format!("{bearer},"))], &norrix),
            (401, "malformed"),
        ),
        (
            "no such environment",
            request("GET", "/", &[("x-api-key", &nora.secret)], &in_nora("nosuch")),
            (401, "wrong_environment"),
        ),
        (
            "too long",
            request("GET", "/", &[("x-api-key", &nora.secret)], &[("keyspace", "nora"), ("environment", &long)]),
            (400, "invalid_argument"),
        ),
        (
            "another organization",
            request("GET", "/api/build", &auth, &[("keyspace", "norrix"), ("organization", "other")]),
            (401, "wrong_organization"),
        ),
        (
            "another instance",
            request("GET", "/api/build", &auth, &[("keyspace", "norrix"), ("instance", "other")]),
            (401, "wrong_instance"),
        ),
        (
            "named twice",
            request("GET", "/api/build?orgId=acme", &auth, &[("keyspace", "norrix"), ("organization", "other")]),
            (401, "wrong_organization"),
        ),
        (
            "a foreign one",
            request("GET", "/api/build?orgId=x", &auth, &[("keyspace", "norrix"), ("organization", "acme")]),
            (403, "forbidden"),
        ),
        ("absolute form", request("GET", "http://api.example/api/build", &auth, &norrix), (400, "ambiguous_path")),
        ("asterisk form", request("OPTIONS", "*", &auth, &norrix), (400, "ambiguous_path")),
    ] {
        let response = ask(&world, request).await;
        assert_eq!(refused(&response), (expected.0, expected.1.to_owned()), "{case}");
    }
    // 64 KiB of headers.
    let many: Vec<(String, String)> = (0..1_024).map(|n| (format!("x-{n}"), "v".repeat(64))).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    passes(&ask(&world, request("GET", "/api/build", &[&auth[..], &many].concat(), &norrix)).await);
    assert_eq!(refused(&ask(&world, request("GET", "/api/build", &many, &norrix)).await).0, 401);
}

#[tokio::test]
async fn two_credentials_are_400_and_headers_may_come_unjoined() {
    let setup = Setup::new().config(
        "[[keyspace]]\nname = \"any\"\nprefix = \"any_\"\nsecret = { encoding = \"alphanumeric\", length = 32 }\n\
         credential = \"any\"\ngateway = { strip_credential = true }\n",
    );
    let world = World::of(setup, None).await;
    let key = world.key(json!({"name": "n"})).await;
    let bearer = key.bearer();
    // With one keyspace, Envoy need not name it.
    let both = [("authorization", bearer.as_str()), ("x-api-key", key.secret.as_str())];
    assert_eq!(refused(&ask(&world, request("GET", "/", &both, &[])).await), (400, "invalid_argument".to_owned()));
    for (one, name) in [(&both[..1], "authorization"), (&both[1..], "x-api-key")] {
        let response = ask(&world, request("GET", "/", one, &[])).await;
        assert_eq!(passes(&response).1, [name], "the header that held it is removed");
    }
    let unjoined = |values: &[&str]| {
        let mut request = request("GET", "/", &[], &[]);
        let header = |value: &&str| HeaderValue {
            key: "Authorization".to_owned(),
            value: String::new(),
            raw_value: value.as_bytes().to_vec(),
        };
        let http = request.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
        http.header_map = Some(HeaderMap { headers: values.iter().map(header).collect() });
        request
    };
    passes(&ask(&world, unjoined(&[&bearer])).await);
    assert_eq!(refused(&ask(&world, unjoined(&[&bearer, &bearer])).await), (400, "invalid_argument".to_owned()));
}

#[tokio::test]
async fn a_spent_limit_is_429_and_each_check_spends_one() {
    let world = World::new().await;
    let key = world.noro().await;
    let about = || request("GET", "/x", &[("authorization", &key.bearer())], &[("keyspace", "noro")]);
    for left in (0..100).rev() {
        let response = ask(&world, about()).await;
        passes(&response);
        let Some(HttpResponse::OkResponse(ok)) = &response.http_response else { unreachable!() };
        let client = headers(&ok.response_headers_to_add);
        assert_eq!((client["x-ratelimit-limit"], client["x-ratelimit-remaining"]), ("100", left.to_string().as_str()));
    }
    let response = ask(&world, about()).await;
    assert_eq!(refused(&response), (429, "rate_limited".to_owned()));
    let Some(HttpResponse::DeniedResponse(denied)) = &response.http_response else { unreachable!() };
    let client = headers(&denied.headers);
    assert!(client.contains_key("retry-after") && client.contains_key("x-ratelimit-reset"), "{client:?}");
    assert_eq!(client["x-ratelimit-remaining"], "0");
    assert_eq!(response.status.unwrap().code, Code::ResourceExhausted as i32);
}

/// A refusal that spends nothing shows the limit all the same, whether or not memory has the key.
#[tokio::test]
async fn a_refused_check_spends_nothing_and_shows_the_limit() {
    let setup = Setup::new().config(
        "[[keyspace]]\nname = \"limited\"\nprefix = \"lim_\"\nsecret = { encoding = \"alphanumeric\", length = 32 }\n\
         rate_limit = { limit = 3, window = \"1h\" }\nscopes = [\"a\", \"b\"]\ngateway = { org_param = \"org\" }\n\
         [[keyspace.route]]\npath = \"/a\"\nscopes = [\"a\"]\n[[keyspace.route]]\npath = \"/b\"\nscopes = [\"b\"]\n",
    );
    let world = World::of(setup, None).await;
    let key = world.key(json!({"name": "n", "scopes": ["a"], "orgId": "acme"})).await;
    let bearer = key.bearer();
    for target in ["/b", "/c", "/a?org=other", "/b", "/c", "/a?org=other"] {
        let response = ask(&world, request("GET", target, &[("authorization", &bearer)], &[])).await;
        assert_eq!(refused(&response).0, 403, "{target}");
        let Some(HttpResponse::DeniedResponse(denied)) = &response.http_response else { unreachable!() };
        let client = headers(&denied.headers);
        for (name, value) in [("x-ratelimit-limit", "3"), ("x-ratelimit-remaining", "3")] {
            assert_eq!(client.get(name), Some(&value), "{target}: {client:?}");
        }
    }
}

/// The client that Envoy's own message classes make: the fields and their numbers are the real ones.
#[tokio::test]
async fn envoys_own_classes_read_and_write_the_same_messages() {
    let world = World::new().await;
    let key = world.norrix(&["build"]).await;
    let folder = std::env::var("KEYWARD_TEST_GATEWAYS").expect("KEYWARD_TEST_GATEWAYS: tests/run sets it");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateways/check.py");
    let output = std::process::Command::new(format!("{folder}/bin/python"))
        .args([script, &world.server.grpc, &world.gateway, &key.secret, &key.id])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.trim().ends_with("good"), "{text}");
}
