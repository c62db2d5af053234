//! The network side: gRPC and REST. Only conversion and wiring; every decision is made by a service.

pub(crate) mod bearer;
pub(crate) mod call_log;
pub(crate) mod deadline;
pub mod grpc;
pub mod listener;
pub mod peer;
pub mod rest;
pub(crate) mod status;
pub mod tls;
