//! What gateways do without Keyward, and that Keyward needs no database for what it has in memory.

use crate::{
    gateway::{Gateway, Kind},
    support::{Setup, reply::until},
    upstream::{Seen, Upstream},
    world::World,
};

/// Without Keyward nothing passes, and the client is told to try again. Once it is back, requests pass.
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
        let response = gateway.send("GET", "/api/build", headers).await;
        // Traefik has an answer of its own.
        let expected = if kind == Kind::Traefik { &[500, 502, 503][..] } else { &[503] };
        assert!(expected.contains(&response.status), "{kind:?}: {response:?}");
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
