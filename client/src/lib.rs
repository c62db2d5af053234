#![doc = include_str!("../README.md")]

mod asserted;
mod attach;
mod backoff;
mod builder;
mod check;
mod client;
mod connection;
mod credential;
mod ended;
mod endpoint;
mod endpoints;
mod error;
mod key_facts;
pub mod layer;
pub mod proto;
mod rate_limit;
mod reason;
mod stream;
mod timestamp;
#[cfg(feature = "tls")]
mod tls;
mod verdict;

pub use attach::{AttachOptions, AttachState, AttachStatus, LocalKey, LocalMemory, WhileAway};
pub use builder::ClientBuilder;
pub use check::{Check, CheckFuture};
pub use client::{Client, ClientMetrics, KeyService};
pub use connection::Connection;
pub use ended::{EndReason, Ended, NotWatched};
pub use error::{BuildError, Error, ErrorKind};
pub use layer::KeywardLayer;
pub use rate_limit::RateLimit;
pub use reason::Reason;
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use verdict::{Principal, Refusal, Verdict};
