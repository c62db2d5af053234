//! Pure rules: no async, no I/O, no transport, no store.

pub mod access;
pub mod address;
pub mod backoff;
pub mod bounds;
pub mod caller;
pub mod claims;
pub mod clock;
pub mod egress;
pub mod error;
pub mod event;
pub mod installation;
pub mod key;
pub mod keyspace;
pub mod page;
pub mod rate;
pub mod secret;
pub mod session;
pub mod verdict;
pub mod webhook;
