//! What happens to a whole server when its database is slow, silent, gone or back: a real server, a real Postgres, and
//! a proxy between them.

#[path = "../support/mod.rs"]
mod support;

mod start;
