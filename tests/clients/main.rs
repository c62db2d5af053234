//! The Rust client against real servers, and against servers that misbehave as a real one cannot be made to.

#![allow(clippy::disallowed_methods, reason = "a test of a real server runs on real time")]

mod attach;
mod attach_bounds;
mod attach_process;
mod attach_protocol;
mod attach_session;
mod calls;
mod end_work;
mod ended;
mod layer_axum;
mod layer_tonic;
mod misbehaving;
mod misbehaving_attach;
mod package;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/mod.rs"]
mod support;

#[path = "../../client/examples/axum_service.rs"]
#[expect(dead_code, reason = "its main is for people")]
mod axum_service;
#[path = "../../client/examples/tonic_service.rs"]
#[expect(dead_code, reason = "its main is for people")]
mod tonic_service;

use keyward_client::{Client, ClientBuilder};

use crate::support::{
    Server,
    server::{ROOT, with},
};

/// A builder of clients of this server.
fn builder(server: &Server) -> ClientBuilder {
    Client::builder(format!("http://{}", server.grpc))
}

/// A client that calls with the root credential.
fn client(server: &Server) -> Client {
    builder(server).credential(ROOT).build().unwrap()
}

/// The secret of a new service key, and its id.
async fn service_key(server: &Server) -> (String, String) {
    let request = keyward::proto::CreateRequest {
        keyspace: "keyward".into(),
        scopes: vec!["verify".into()],
        ..Default::default()
    };
    let created = server.client().await.create(with(ROOT, request)).await.unwrap().into_inner();
    (created.secret, created.key.unwrap().id)
}
