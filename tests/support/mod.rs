//! What the tests share: a real server on free ports, and clients that speak to it.

#![allow(dead_code, reason = "each test target uses a part of this")]

pub mod grpc;
pub mod server;

pub use server::{Server, Setup};
