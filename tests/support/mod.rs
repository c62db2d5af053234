//! What the tests share: a real server on free ports, and clients that speak to it.

#![allow(dead_code, unused_imports, reason = "each test target uses a part of this")]
#![allow(clippy::disallowed_methods, reason = "a test of a real server runs on real time")]

pub mod cli;
pub mod dashboard;
pub mod ext_authz;
pub mod grpc;
pub mod oidc;
pub mod reply;
pub mod server;
pub mod stranger;
pub mod tls;

pub use reply::{Reply, reply};
pub use server::{Server, Setup};
