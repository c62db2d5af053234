//! `keyward agent` as a real process in front of real replicas: the same answers, the same strictness, and what it does
//! when something is gone.

#![allow(clippy::disallowed_methods, reason = "a test of a real server runs on real time")]

mod answers;
mod bounds;
mod check;
mod forward_auth;
mod gateways;
mod lifecycle;
mod process;
mod services;
mod streams;
mod strictness;

#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/raw.rs"]
mod raw;
#[path = "../support/mod.rs"]
mod support;

use keyward::proto::{CreateRequest, VerifyRequest};

use crate::support::{
    Server,
    grpc::{self, Client, Made},
    server::{ROOT, with},
};

/// Long enough on a busy machine.
const LONG: std::time::Duration = std::time::Duration::from_secs(30);

/// A replica that does not slow down an address whose credentials are refused.
const MANY_REFUSALS: &str = r#"
[server]
failed_authentications = { limit = 1000000, window = "60s" }
"#;

/// A keyspace. Further settings of it may follow.
const BUILDS: &str = r#"
[[keyspace]]
name = "builds"
prefix = "bld_"
secret = { encoding = "alphanumeric", length = 32 }
scopes = ["build", "admin"]
default_scopes = ["build"]
"#;

/// A new key.
async fn key(server: &Server, request: CreateRequest) -> Made {
    grpc::made(grpc::create(&mut server.client().await, ROOT, request).await)
}

/// A new service key, which may verify the keys of these keyspaces; of all, if there are none.
async fn service_key(server: &Server, keyspaces: &[&str]) -> Made {
    let request = CreateRequest {
        keyspace: "keyward".into(),
        scopes: grpc::texts(&["verify"]),
        keyspaces: grpc::texts(keyspaces),
        ..CreateRequest::default()
    };
    key(server, request).await
}

/// What a caller gets of a Verify: a response, or a refusal.
type Answer = Result<keyward::proto::VerifyResponse, grpc::Refusal>;

/// Verifies as a caller.
async fn verify(client: &mut Client, credential: &str, request: VerifyRequest) -> Answer {
    let answer = client.verify(with(credential, request)).await;
    answer.map(tonic::Response::into_inner).map_err(|status| grpc::Refusal::of(&status))
}

/// Whether a bare check is VALID.
async fn is_valid(client: &mut Client, credential: &str, secret: &str) -> bool {
    verify(client, credential, grpc::check(secret))
        .await
        .is_ok_and(|answer| answer.code() == keyward::proto::Code::Valid)
}
