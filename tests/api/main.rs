//! The contract, black box: a real server, spoken to over gRPC and REST.

#[path = "../support/mod.rs"]
mod support;

mod grpc_verdicts;
mod smoke;
