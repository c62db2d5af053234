//! Keyward is a key-management service: it creates, lists, revokes and verifies API keys over gRPC and REST, and keeps them
//! in Postgres or in embedded SQLite.
//!
//! Verify answers from memory while the replica holds a *lease*, and a revoked key is invalid on every replica the
//! moment Revoke returns. [`replica`] describes how both are true at once.
//!
//! # Rooms
//!
//! Data runs one way, from the top of this table to its bottom. A module imports modules below it and never above; no two
//! files import each other. `tests/layering` checks both.
//!
//! | room | what it does |
//! |---|---|
//! | [`app`] | the composition root: builds everything, starts it in order and stops it in order |
//! | [`agent`] | `keyward agent`: the client behind the connections of gRPC, on the callers' own host |
//! | `dashboard` | pages for people, on the listener of REST |
//! | [`transport`], [`webhook`] | gRPC and REST in front of the services; the delivery of events behind them |
//! | [`service`] | use cases: verify, authenticate, manage keys, list events, and background jobs |
//! | [`store`] | one set of operations, on Postgres and on SQLite |
//! | [`replica`] | the cache of keys, the lease that lets it answer, and the follower that applies changes |
//! | [`limiter`] | rate limits, in memory or shared through Redis |
//! | `session` | tokens of trusted OpenID Connect issuers |
//! | [`config`], [`telemetry`], `json`, [`proto`] | settings; logs and metrics; what REST and webhooks write; the gRPC messages |
//! | [`domain`] | rules, without I/O: keys, keyspaces, secrets, access, verdicts, rate limits |
//!
//! # Example
//!
//! A secret ends in a keyed checksum, so that a forged or mistyped one is refused without a look-up:
//!
//! ```
//! use keyward::domain::{
//!     clock::SystemEntropy,
//!     keyspace::{Keyspace, Registry},
//!     master_keys::{MasterKey, MasterKeys},
//!     secret::Encoding,
//! };
//!
//! let encoding = Encoding::Alphanumeric { length: 40 };
//! let registry = Registry::new(vec![Keyspace::with_defaults("acme", "acme_", encoding)]);
//! let master_keys = MasterKeys::derive(&MasterKey::new([7; 32]));
//! let secret = encoding.generate("acme_", &master_keys, &SystemEntropy);
//! assert!(registry.well_formed(secret.expose(), &master_keys));
//!
//! // A mistyped secret is refused, and so is one of another installation.
//! assert!(!registry.well_formed(&secret.expose().replace("acme_", "acme_x"), &master_keys));
//! let others = MasterKeys::derive(&MasterKey::new([8; 32]));
//! assert!(!registry.well_formed(secret.expose(), &others));
//!
//! // The secret itself is never logged.
//! assert_eq!(format!("{secret:?}"), "Secret(…)");
//! ```

#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, reason = "a panic in one call must be a defect, never an input")
)]
// Of the library alone: each test sees the dependencies of all tests.
#![cfg_attr(not(test), warn(unused_crate_dependencies))]

// The program uses these.
use clap as _;
use clap_complete as _;
use clap_mangen as _;
use console as _;
use dialoguer as _;
use mimalloc as _;
use webbrowser as _;
use zeroizing_alloc as _;

pub mod agent;
pub mod app;
pub mod config;
pub(crate) mod dashboard;
pub mod domain;
#[cfg(feature = "faults")]
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod json;
pub mod limiter;
pub mod proto;
pub mod replica;
pub mod service;
pub(crate) mod session;
pub mod store;
pub mod telemetry;
pub mod transport;
pub mod webhook;
