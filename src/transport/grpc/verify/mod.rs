//! Verify over gRPC.
//!
//! `fast_path` answers a Verify from memory on the thread that read it; `unary` completes one that memory cannot decide;
//! `stream` answers VerifyStream. `messages` reads their requests and renders their verdicts.

pub(crate) mod fast_path;
pub mod messages;
pub(crate) mod stream;
pub(crate) mod unary;
