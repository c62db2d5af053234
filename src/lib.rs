//! Keyward: a key-management service. It makes, lists, revokes and verifies API keys over gRPC and REST, on Postgres
//! or embedded SQLite.
//!
//! Data runs one way: transport → service → {domain, store, replica, limiter}. Nothing points up.

pub mod domain;
pub mod store;
pub mod proto {
    #![allow(missing_docs, clippy::pedantic)]
    tonic::include_proto!("keyward.v1");
}
