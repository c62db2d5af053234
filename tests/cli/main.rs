//! The command line for people and pipelines: the real binary against a real server, a real OpenID Connect provider and a
//! real terminal.

#![allow(clippy::disallowed_methods, reason = "a test of a real server runs on real time")]

#[path = "../support/mod.rs"]
mod support;

mod environments;
mod hostile;
mod keys;
mod output;
mod retries;
mod server_commands;
mod sessions;
mod shells;
mod sign_in;
mod terminal;
