//! Decisions for gateways: the two interfaces as a gateway calls them, and real gateways (`tests/run` installs them), each
//! with the file under `config/gateways/` that users copy, before an upstream that echoes what reaches it.

#![allow(clippy::disallowed_methods, reason = "a test of a real server runs on real time")]
#![allow(clippy::similar_names, reason = "noro and nora are two products")]

#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/raw.rs"]
mod raw;
#[path = "../support/mod.rs"]
mod support;

mod check;
mod forward_auth;
mod forward_auth_verdicts;
mod observe;
mod outage;
mod products;
mod requests;
mod upstream;
mod world;
