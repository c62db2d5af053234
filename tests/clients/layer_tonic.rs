//! The layer around a tonic service: the example's.

use std::{net::SocketAddr, time::Duration};

use keyward::proto::CreateRequest;
use keyward_client::Client;
use tokio::net::TcpListener;
use tonic::{Code, Response, Status, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use crate::{
    builder, client,
    support::{
        Setup,
        grpc::{self, assert_refused, forged, own_limit, refused, texts},
        server::{ROOT, with},
    },
    tonic_service,
};

/// Starts the example's service; its address.
async fn start(client: Client) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let routes = tonic_service::service(client).unwrap();
    tokio::spawn(tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(incoming));
    address
}

async fn who_am_i(address: SocketAddr, secret: &str) -> Result<Response<String>, Status> {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/example.Callers/WhoAmI");
    grpc.unary(with(secret, ()), path, ProstCodec::<(), String>::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_service_gets_the_principal_and_refusals_are_statuses_with_details() {
    let server = Setup::new().start();
    let address = start(client(&server)).await;
    let mut operator = server.client().await;
    let mut key = async |scopes: &[&str], limit: Option<u32>| {
        let rate_limit = limit.map(|limit| own_limit(limit, 3_600));
        let request = CreateRequest { scopes: texts(scopes), rate_limit, ..Default::default() };
        grpc::made(grpc::create(&mut operator, ROOT, request).await)
    };
    let reader = key(&["read"], None).await;
    let response = who_am_i(address, &reader.secret).await.unwrap();
    assert!(response.metadata().get("x-request-id").is_some());
    assert_eq!(response.into_inner(), reader.id);

    assert_refused(who_am_i(address, &forged(&reader.secret)).await, Code::Unauthenticated, "MALFORMED");
    let writer = key(&["write"], None).await;
    let refusal = refused(who_am_i(address, &writer.secret).await);
    assert_eq!((refusal.code, &*refusal.reason), (Code::PermissionDenied, "INSUFFICIENT_SCOPE"));
    assert_eq!(refusal.message, "API key does not have 'read' scope");

    let limited = key(&["read"], Some(1)).await;
    let response = who_am_i(address, &limited.secret).await.unwrap();
    assert_eq!(response.metadata().get("x-ratelimit-remaining").unwrap(), "0");
    let refusal = refused(who_am_i(address, &limited.secret).await);
    assert_eq!((refusal.code, &*refusal.reason), (Code::ResourceExhausted, "RATE_LIMITED"));
    assert!(refusal.retry.is_some_and(|wait| wait > Duration::from_secs(3_000)), "{refusal:?}");

    grpc::revoke(&mut server.client().await, &reader.id).await;
    assert_refused(who_am_i(address, &reader.secret).await, Code::Unauthenticated, "REVOKED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_service_lets_nothing_through_while_keyward_is_away() {
    let server = Setup::new().start();
    let address = start(builder(&server).credential(ROOT).timeout(Duration::from_millis(500)).build().unwrap()).await;
    drop(server);
    assert_refused(who_am_i(address, "ak_anything").await, Code::Unavailable, "UNAVAILABLE");
}
