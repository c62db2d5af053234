//! The contract, black box: a real server, spoken to over gRPC and REST.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../support/mod.rs"]
mod support;

mod grpc_admin;
mod grpc_bounds;
mod grpc_callers;
mod grpc_create;
mod grpc_list;
mod grpc_rate;
mod grpc_revoke;
mod grpc_server;
mod grpc_stream;
mod grpc_verdicts;
mod smoke;
