//! `/forward-auth`, as gateways call it.

use serde_json::json;

use crate::{
    raw::{self, Response},
    support::{
        Setup, grpc,
        server::ROOT,
        tls::{As, Authority, table},
    },
    world::World,
};

const IDENTITY: [&str; 9] = [
    "x-keyward-key-id",
    "x-keyward-keyspace",
    "x-keyward-organization",
    "x-keyward-instance",
    "x-keyward-environment",
    "x-keyward-scopes",
    "x-keyward-name",
    "x-keyward-subject",
    "x-keyward-role",
];

/// The request passes: every identity header is there, once.
#[track_caller]
pub fn passes(response: &Response) -> Vec<&str> {
    assert_eq!(response.status, 200, "{response:?}");
    let identity = |name| response.header(name).unwrap_or_else(|| panic!("no {name} in {response:?}"));
    IDENTITY.map(identity).to_vec()
}

pub fn invalid(response: &Response, field: &str) {
    let body = response.json();
    let named = body["message"].as_str().unwrap().split(": ").next();
    assert_eq!((response.status, &body["code"], named), (400, &json!("invalid_argument"), Some(field)), "{response:?}");
}

#[tokio::test]
async fn every_kind_reads_its_own_headers_alone() {
    let world = World::new().await;
    let key = world.norrix(&["build"]).await;
    let bearer = key.bearer();
    let auth = ("Authorization", bearer.as_str());
    let original = [("X-Original-URI", "/api/build/1?x=1"), ("X-Original-Method", "POST")];
    let forwarded = [("X-Forwarded-Uri", "/api/build/1?x=1"), ("X-Forwarded-Method", "POST")];
    for (kind, own, others) in [
        ("nginx", original, forwarded),
        ("caddy", forwarded, original),
        ("traefik", forwarded, original),
        ("haproxy", forwarded, original),
    ] {
        let path = format!("{kind}/norrix");
        let response = world.ask(&path, &[auth, own[0], own[1]]).await;
        assert_eq!(
            passes(&response),
            [key.id.as_str(), "norrix", "acme", "", "", "build", "CI%20of%20A", "", ""],
            "{kind}"
        );
        assert_eq!(response.header("cache-control"), Some("no-store"));
        // The others' are ignored where they say the same.
        passes(&world.ask(&path, &[auth, own[0], own[1], others[0], others[1]]).await);
        let name = others[0].0.to_ascii_lowercase();
        invalid(&world.ask(&path, &[auth, own[0], own[1], (others[0].0, "/api/env")]).await, &name);
        let name = others[1].0.to_ascii_lowercase();
        invalid(&world.ask(&path, &[auth, own[0], own[1], (others[1].0, "GET")]).await, &name);
        // Its own have to be there, once.
        invalid(&world.ask(&path, &[auth, own[1]]).await, &own[0].0.to_ascii_lowercase());
        invalid(&world.ask(&path, &[auth, own[0]]).await, &own[1].0.to_ascii_lowercase());
        invalid(&world.ask(&path, &[auth, others[0], others[1]]).await, &own[0].0.to_ascii_lowercase());
        invalid(&world.ask(&path, &[auth, own[0], own[0], own[1]]).await, &own[0].0.to_ascii_lowercase());
        invalid(&world.ask(&path, &[auth, (own[0].0, ""), own[1]]).await, &own[0].0.to_ascii_lowercase());
        // The query of the call is the client's, at some gateways.
        passes(&world.ask(&format!("{path}?orgId=other&x=/../"), &[auth, own[0], own[1]]).await);
        // Refusals have their body in a header only where the gateway cannot pass it.
        let refused = world.ask(&path, &[own[0], own[1]]).await;
        refused.unauthorized("missing_credential");
        let body = refused.header("x-keyward-body").map(|body| body.as_bytes().to_vec());
        assert_eq!(body, (kind == "nginx").then(|| refused.body.clone()), "{kind}");
    }
    for nowhere in ["envoy/norrix", "Nginx/norrix", "apache/norrix"] {
        let response = world.ask(nowhere, &[auth, original[0], original[1]]).await;
        assert_eq!((response.status, &response.json()["code"]), (404, &json!("no_such_path")), "{nowhere}");
    }
    for unknown in ["nginx/nosuch", "nginx/keyward", "nginx/Norrix"] {
        invalid(&world.ask(unknown, &[auth, original[0], original[1]]).await, "keyspace");
    }
}

#[tokio::test]
async fn any_method_asks() {
    let world = World::new().await;
    let key = world.norrix(&["build"]).await;
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "FOO"] {
        let headers = [
            ("X-Keyward-Gateway", world.gateway.as_str()),
            ("Authorization", &key.bearer()),
            ("X-Original-URI", "/api/build"),
            ("X-Original-Method", "GET"),
        ];
        passes(&raw::send(&world.server.http, method, "/forward-auth/nginx/norrix", &headers).await);
    }
}

#[tokio::test]
async fn only_gateways_get_decisions() {
    let world = World::new().await;
    let mut client = world.client().await;
    let key = world.norrix(&["build", "admin"]).await;
    let limited = grpc::made(
        grpc::create(
            &mut client,
            ROOT,
            keyward::proto::CreateRequest {
                keyspace: "keyward".into(),
                scopes: vec!["verify".into()],
                keyspaces: vec!["noro".into()],
                ..Default::default()
            },
        )
        .await,
    );
    let bearer = key.bearer();
    let about = [("Authorization", bearer.as_str()), ("X-Original-URI", "/api/build"), ("X-Original-Method", "GET")];
    let ask = async |credentials: &[(&str, &str)]| {
        raw::send(&world.server.http, "GET", "/forward-auth/nginx/norrix", &[&about[..], credentials].concat()).await
    };
    for good in [world.gateway.as_str(), ROOT, &format!("Bearer {}", world.gateway)] {
        passes(&ask(&[("X-Keyward-Gateway", good)]).await);
    }
    for bad in ["", "garbage", &key.secret, &format!("{}x", world.gateway), &limited.secret[..20]] {
        let refused = ask(&[("X-Keyward-Gateway", bad)]).await;
        refused.refused(403, "Forbidden", "Only gateways may ask here", "forbidden");
    }
    ask(&[]).await.refused(403, "Forbidden", "Only gateways may ask here", "forbidden");
    let twice = ask(&[("X-Keyward-Gateway", &world.gateway), ("X-Keyward-Gateway", &world.gateway)]).await;
    assert_eq!(twice.status, 403);
    // For a service that is limited to other keyspaces, this one does not exist.
    invalid(&ask(&[("X-Keyward-Gateway", &limited.secret)]).await, "keyspace");
    // A stranger does not learn which kinds and keyspaces there are.
    for path in ["nginx/norrix", "nginx/nosuch", "nosuch/norrix"] {
        let response = raw::send(&world.server.http, "GET", &format!("/forward-auth/{path}"), &about).await;
        assert_eq!(response.status, 403, "{path}");
    }
    // A revoked gateway is out at once.
    let id = passes(&ask(&[("X-Keyward-Gateway", &world.gateway)]).await)[0].to_owned();
    assert!(id.starts_with("key_"));
    let mine =
        grpc::list(&mut client, ROOT, keyward::proto::ListRequest { keyspace: "keyward".into(), ..Default::default() })
            .await;
    for key in mine {
        grpc::revoke(&mut client, &key.id).await;
    }
    assert_eq!(ask(&[("X-Keyward-Gateway", &world.gateway)]).await.status, 403);
}

#[tokio::test]
async fn a_listed_address_may_request_decisions_without_a_credential() {
    for (networks, good) in [("\"127.0.0.0/8\"", true), ("\"10.0.0.0/8\", \"::1\"", false)] {
        let setup = Setup::new().ready("norrix").and(&format!("[http]\ngateways = [{networks}]\n"));
        let world = World::of(setup, None).await;
        let key = world.norrix(&["build"]).await;
        let bearer = key.bearer();
        let about =
            [("Authorization", bearer.as_str()), ("X-Original-URI", "/api/build"), ("X-Original-Method", "GET")];
        for more in [&[][..], &[("X-Forwarded-For", "10.1.2.3")], &[("X-Forwarded-For", "127.0.0.1")]] {
            let headers = [&about[..], more].concat();
            let response = raw::send(&world.server.http, "GET", "/forward-auth/nginx/norrix", &headers).await;
            assert_eq!(response.status, if good { 200 } else { 403 }, "{networks} {more:?}: {response:?}");
        }
        // An invalid credential is refused, although the address alone would do.
        let headers = [&about[..], &[("X-Keyward-Gateway", "garbage")]].concat();
        assert_eq!(raw::send(&world.server.http, "GET", "/forward-auth/nginx/norrix", &headers).await.status, 403);
    }
}

/// The client's own credential is in `Authorization`, so the certificate counts beside it.
#[tokio::test]
async fn a_client_certificate_is_the_gateways_proof() {
    const NAME: &str = "spiffe://example.org/gateway";
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new(folder.path(), "ca");
    let clients = format!("[[tls.client]]\nsan = \"{NAME}\"\nrole = \"verify\"\nkeyspaces = [\"norrix\"]\n");
    let table = table(&ca.server("server"), Some(&ca.cert));
    let server = Setup::new().ready("all").and(&table).and(&clients).start();
    let (gateway, stranger) = (ca.client("gateway", &[NAME]), ca.client("stranger", &["spiffe://example.org/x"]));
    let caller = |identity, bearer| As { ca: &ca.cert, identity, bearer };
    let body = json!({"name": "n", "keyspace": "norrix", "orgId": "acme", "scopes": ["build"]});
    let key = caller(None, Some(ROOT)).curl(&server, "/api/api-keys", Some(&body), &[]).json();
    let bearer = format!("Authorization: Bearer {}", key["key"].as_str().unwrap());
    let about =
        ["-H", &bearer, "-H", "X-Original-URI: /api/build", "-H", "X-Original-Method: GET", "-H", "Origin: https://x"];
    for (identity, path, more, status) in [
        (Some(&gateway), "norrix", &[][..], 200),
        (Some(&gateway), "noro", &[], 400),
        (Some(&gateway), "norrix", &["-H", "X-Keyward-Gateway: garbage"], 403),
        (Some(&stranger), "norrix", &[], 403),
        (None, "norrix", &[], 403),
    ] {
        let path = format!("/forward-auth/nginx/{path}");
        let answer = caller(identity, None).curl(&server, &path, None, &[&about[..], more].concat());
        assert_eq!(answer.status, status, "{path} {more:?}");
    }
}
