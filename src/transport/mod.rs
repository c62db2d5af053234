//! The network side: gRPC and REST. Only conversion and wiring; every decision is made by a service.

pub mod accept;
pub mod budget;
pub(crate) mod call_log;
pub(crate) mod charged_input;
pub(crate) mod deadline;
pub mod grpc;
pub mod listener;
pub mod peer;
pub(crate) mod refusal;
pub(crate) mod request_id;
pub mod rest;
pub(crate) mod status;
pub mod tls;
pub mod write_timeout;
