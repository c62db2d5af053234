//! Verify over gRPC.
//!
//! `fast_path` answers a Verify from memory on the thread that read it; `unary` completes one that memory cannot decide;
//! `stream` answers VerifyStream. `encode` renders the verdict for all of them.

pub(crate) mod encode;
pub(crate) mod fast_path;
pub(crate) mod stream;
pub(crate) mod unary;
