//! Pure rules: no async, no I/O, no transport, no store.

pub mod access;
pub mod backoff;
pub mod caller;
pub mod clock;
pub mod egress;
pub mod error;
pub mod event;
pub mod ip_class;
pub mod key;
pub mod keyspace;
pub mod master_keys;
pub mod oidc;
pub mod page_token;
pub mod rate_limit;
pub mod secret;
pub mod session;
pub mod validation;
pub mod verdict;
pub mod webhook;
