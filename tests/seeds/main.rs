//! The promises in the documents of the three products, tested against a server with the ready-made configuration of each.

#![allow(clippy::disallowed_methods, reason = "a test of a real server runs on real time")]

#[path = "../webhooks/receiver.rs"]
mod receiver;
#[path = "../support/mod.rs"]
mod support;

mod nora;
mod noro;
mod norrix;
mod norrix_active;
mod norrix_cli;
mod norrix_sessions;
