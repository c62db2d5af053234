#![doc = include_str!("../README.md")]

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
pub mod layer;
pub mod proto;
mod reason;
mod stream;
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
pub use reason::Reason;
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use verdict::{Principal, RateLimit, Refusal, Verdict};
