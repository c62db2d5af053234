//! Webhooks from the outside: a real server, real receivers, and the public libraries that receivers use.

#![allow(clippy::disallowed_methods, reason = "a test of a real server runs on real time")]

mod bounds;
mod events;
mod fixture;
mod guard;
mod libraries;
mod outage;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/proxy.rs"]
mod proxy;
mod receiver;
mod replicas;
mod retries;
mod rotation;
#[path = "../support/mod.rs"]
mod support;
mod tls;
