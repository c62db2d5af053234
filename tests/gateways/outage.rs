//! What gateways do without Keyward, and that Keyward needs no database for what it has in memory.

use std::{net::SocketAddr, time::Duration};

use keyward::proto::envoy::service::auth::v3::check_response::HttpResponse;
use tonic::Code;

use crate::{
    check,
    gateway::{Gateway, Kind},
    postgres,
    proxy::Proxy,
    raw::Response,
    support::{Setup, ext_authz::request, reply::until, server::with},
    upstream::{Seen, Upstream},
    world::World,
};

/// The gateway's own answer while Keyward does not answer.
#[track_caller]
fn closed(kind: Kind, response: &Response) {
    match kind {
        Kind::Nginx | Kind::Caddy | Kind::Haproxy => {
            response.refused(503, "Service Unavailable", "Try again", "unavailable");
        }
        Kind::Envoy => assert_eq!((response.status, &response.body[..]), (503, &b""[..]), "{response:?}"),
        Kind::Traefik => assert_eq!((response.status, &response.body[..]), (500, &b""[..]), "{response:?}"),
    }
}

/// Without Keyward nothing passes, and the response says when to try again. Once it is back, requests pass.
async fn closed_and_open_again(kind: Kind) {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::of(Setup::new().ready("all").folder(folder.path()), None).await;
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(kind, &world, &upstream, "norrix").await;
    let key = world.norrix(&["build"]).await;
    let bearer = key.bearer();
    let headers = [("Authorization", bearer.as_str())];
    Seen::of(&gateway.send("GET", "/api/build", &headers).await);

    let (http, grpc) = (world.server.http.clone(), world.server.grpc.clone());
    world.server.stop();
    let requests = upstream.requests();
    for headers in [&headers[..], &[]] {
        closed(kind, &gateway.send("GET", "/api/build", headers).await);
    }
    assert_eq!(upstream.requests(), requests, "{kind:?}");

    let again = Setup::new().ready("all").folder(folder.path());
    world.server = again.env("KEYWARD_HTTP_ADDR", &http).env("KEYWARD_GRPC_ADDR", &grpc).start();
    until("requests pass again", async || {
        let response = gateway.send("GET", "/api/build", &headers).await;
        (response.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn envoy_is_closed_without_keyward_and_open_once_it_is_back() {
    closed_and_open_again(Kind::Envoy).await;
}

#[tokio::test]
async fn nginx_is_closed_without_keyward_and_open_once_it_is_back() {
    closed_and_open_again(Kind::Nginx).await;
}

#[tokio::test]
async fn caddy_is_closed_without_keyward_and_open_once_it_is_back() {
    closed_and_open_again(Kind::Caddy).await;
}

#[tokio::test]
async fn traefik_is_closed_without_keyward_and_open_once_it_is_back() {
    closed_and_open_again(Kind::Traefik).await;
}

#[tokio::test]
async fn haproxy_is_closed_without_keyward_and_open_once_it_is_back() {
    closed_and_open_again(Kind::Haproxy).await;
}

/// Keyward accepts connections and answers nothing: no request passes, and the client does not wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_keyward_that_hangs_lets_nothing_pass() {
    let world = World::new().await;
    let upstream = Upstream::start().await;
    let key = world.norrix(&["build"]).await;
    let bearer = key.bearer();
    let headers = [("Authorization", bearer.as_str())];
    let mut gateways = Vec::new();
    for kind in Kind::ALL {
        let gateway = Gateway::start(kind, &world, &upstream, "norrix").await;
        Seen::of(&gateway.send("GET", "/api/build", &headers).await);
        gateways.push(gateway);
    }
    let requests = upstream.requests();
    world.server.signal("STOP");
    let answers =
        gateways.iter().map(async |gateway| (gateway.kind, gateway.send("GET", "/api/build", &headers).await));
    for (kind, response) in futures::future::join_all(answers).await {
        closed(kind, &response);
    }
    assert_eq!(upstream.requests(), requests);
    world.server.signal("CONT");
    for gateway in &gateways {
        until("requests pass again", async || {
            (gateway.send("GET", "/api/build", &headers).await.status == 200).then_some(())
        })
        .await;
    }
}

/// Keyward with a lease of 20 s, and the proxy between it and its database.
async fn behind_a_proxy() -> (Setup, Proxy) {
    let direct = postgres::fresh_database().await;
    let mut url = url::Url::parse(&direct).unwrap();
    let address: SocketAddr = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5_432)).parse().unwrap();
    let proxy = Proxy::start(address).await;
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(proxy.address().port())).unwrap();
    let setup = Setup::new().ready("all").database(url.as_ref()).env("KEYWARD_REPLICA_LEASE", "20s");
    (setup, proxy)
}

/// A Check whose caller's time ends before the decision gets an error response. To Envoy the status DEADLINE_EXCEEDED would
/// be a denial.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_not_decided_in_time_is_an_error_response() {
    let (setup, proxy) = behind_a_proxy().await;
    let world = World::of(setup, None).await;
    let about = |bearer: &str| request("GET", "/api/build", &[("authorization", bearer)], &[("keyspace", "norrix")]);
    // Memory has the gateway's own key.
    check::ask(&world, about(&world.norrix(&["build"]).await.bearer())).await;
    let unknown = world.norrix(&["build"]).await.bearer();
    let mut client = check::client(&world).await;
    proxy.silence(true);
    let response = until("Keyward answers before the client stops waiting", async || {
        let mut request = with(&world.gateway, about(&unknown));
        // Less than a lookup may take.
        request.set_timeout(Duration::from_millis(1_500));
        match client.check(request).await {
            Ok(response) => Some(response.into_inner()),
            // On a busy machine the client's own timer may be first.
            Err(status) if status.details().is_empty() => None,
            Err(status) => panic!("{status:?}"),
        }
    })
    .await;
    let Some(HttpResponse::ErrorResponse(error)) = &response.http_response else { panic!("{response:?}") };
    assert_eq!((error.status.as_ref().unwrap().code, response.status.unwrap().code), (503, Code::Unavailable as i32));
}

/// A key in memory is decided about while the database is away. A key that is not is no denial: it is 503, on Envoy as an
/// error, so that the gateway's own failure mode applies.
#[tokio::test(flavor = "multi_thread")]
async fn memory_decides_without_the_database_and_what_it_cannot_decide_is_no_denial() {
    let (setup, proxy) = behind_a_proxy().await;
    let world = World::of(setup, None).await;
    let upstream = Upstream::start().await;
    let mut gateways = Vec::new();
    for kind in Kind::ALL {
        gateways.push(Gateway::start(kind, &world, &upstream, "norrix").await);
    }
    let (known, unknown) = (world.norrix(&["build"]).await, world.norrix(&["build"]).await);
    let (known, unknown) = (known.bearer(), unknown.bearer());
    for gateway in &gateways {
        Seen::of(&gateway.send("GET", "/api/build", &[("Authorization", &known)]).await);
    }

    proxy.down(true);
    for gateway in &gateways {
        Seen::of(&gateway.send("GET", "/api/build", &[("Authorization", &known)]).await);
    }
    let requests = upstream.requests();
    for gateway in &gateways {
        let response = gateway.send("GET", "/api/build", &[("Authorization", &unknown)]).await;
        response.refused(503, "Service Unavailable", "Try again", "unavailable");
        // Keyward's own answer: a gateway that did not wait for it would say the same.
        assert!(response.header("x-request-id").is_some(), "{:?}: {response:?}", gateway.kind);
    }
    assert_eq!(upstream.requests(), requests);
    let about = request("GET", "/api/build", &[("authorization", &unknown)], &[("keyspace", "norrix")]);
    let response = check::ask(&world, about).await;
    let Some(HttpResponse::ErrorResponse(error)) = &response.http_response else { panic!("{response:?}") };
    assert_eq!((error.status.as_ref().unwrap().code, response.status.unwrap().code), (503, Code::Unavailable as i32));
    assert!(error.headers.iter().any(|option| option.header.as_ref().unwrap().key == "retry-after"), "{error:?}");

    // A database that hangs: Keyward answers before the gateways stop waiting for it.
    proxy.down(false);
    until("the database is back", async || {
        let response = gateways[0].send("GET", "/api/build", &[("Authorization", &unknown)]).await;
        (response.status == 200).then_some(())
    })
    .await;
    let third = world.norrix(&["build"]).await.bearer();
    proxy.silence(true);
    for gateway in &gateways {
        let response = gateway.send("GET", "/api/build", &[("Authorization", &third)]).await;
        response.refused(503, "Service Unavailable", "Try again", "unavailable");
        assert!(response.header("x-request-id").is_some(), "{:?}: {response:?}", gateway.kind);
    }
    proxy.silence(false);
    for gateway in &gateways {
        until("requests pass again", async || {
            let response = gateway.send("GET", "/api/build", &[("Authorization", &third)]).await;
            (response.status == 200).then_some(())
        })
        .await;
    }
}
