//! The gRPC listener: `keyward.v1.KeyService`, `keyward.v1.AuditService`, health and reflection.
//!
//! [`server`] accepts connections and spreads them over threads; [`startup`] answers while the database is not open
//! yet. `http2` drives one connection and gives each request to a handler. `verify` answers Verify, from memory on the
//! thread that read the request where that is possible. `admission` checks the credential of every other call before
//! any of its body is buffered; then `tonic_bridge` passes it on to tonic, and `services` implements it.

mod admission;
mod api;
mod attach;
pub(crate) mod codec;
pub(crate) mod connection;
mod convert;
pub(crate) mod ext_authz;
mod handoff;
pub(crate) mod http2;
mod message_gate;
pub(crate) mod metadata;
pub(crate) mod plain_call;
mod protobuf;
pub(crate) mod request_body;
pub mod server;
mod services;
pub mod startup;
pub(crate) mod tonic_bridge;
pub mod verify;
