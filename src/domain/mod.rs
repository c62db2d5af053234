//! The rules of the domain. Pure code: no async, no I/O, no clock but as an argument.

pub(crate) mod access;
pub mod backoff;
pub mod caller;
pub mod clock;
pub mod dashboard;
pub mod egress;
pub mod error;
pub mod event;
pub(crate) mod ip_class;
pub mod key;
pub mod keyspace;
pub mod master_keys;
pub mod oidc;
pub mod page_token;
pub mod rate_limit;
mod role;
pub mod route;
pub mod secret;
pub mod server_url;
pub mod session;
pub(crate) mod text;
mod typeid;
pub mod validation;
pub mod verdict;
pub mod webhook;
