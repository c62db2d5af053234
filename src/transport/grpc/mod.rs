//! The gRPC listener: `keyward.v1.KeyService`, `keyward.v1.AuditService`, health and reflection.
//!
//! [`server`] accepts connections and spreads them over threads; [`startup`] answers while the database is not open yet.
//! `http2` drives one connection and gives each request to a handler. `verify` answers Verify, from memory on the thread
//! that read the request where that is possible. All other calls are handled by tonic: `tonic_bridge` passes them on,
//! and `services` implements them.

mod api;
mod attach;
pub(crate) mod codec;
mod convert;
mod ext_authz;
mod handoff;
mod http2;
mod metadata;
pub mod server;
mod services;
pub mod startup;
mod tonic_bridge;
pub mod verify;
