//! Keyward: a key-management service. It makes, lists, revokes and verifies API keys over gRPC and REST, on Postgres
//! or embedded SQLite.
//!
//! Data runs one way: transport → service → {domain, store, replica, limiter, session}. Nothing points up.

#![cfg_attr(not(test), warn(clippy::unwrap_used, reason = "a panic in one call must be a defect, never an input"))]

pub mod app;
pub mod config;
pub mod domain;
#[cfg(feature = "faults")]
#[doc(hidden)]
pub mod fuzzing;
pub mod json;
pub mod limiter;
pub mod proto;
pub mod replica;
pub mod service;
pub mod session;
pub mod store;
pub mod telemetry;
pub mod transport;
pub mod webhook;
