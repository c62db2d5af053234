//! HTTP/2 connections. The `h2` crate implements the protocol; this module decides which task does the work.
//!
//! A server on top of h2, such as tonic's, spawns a task for each request. Here the task that reads a request may answer
//! it: a Verify that memory can decide costs no task, no wake-up and no second poll, and its response goes out with the
//! next write. `docs/adr/0001-http2-driver.md` has the reasons and the figures.

mod anonymous_turns;
mod backpressure;
mod driver;
mod handler;
mod keepalive;
mod options;
mod spinning;

pub(crate) use self::{
    driver::serve,
    handler::StreamHandler,
    options::{ConnectionOptions, Timeouts},
};
