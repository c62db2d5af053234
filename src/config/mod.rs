//! The configuration: built-in defaults < TOML file < environment < flags. Every problem is reported at once.
//!
//! Each setting is declared in the file of its table, as a `setting::Setting`, and nowhere else. A new setting is one
//! such declaration, listed in its table, and a line that reads it; `config/keyward.toml` and the tables of the
//! documents are generated from the declarations.

mod attach;
mod dashboard;
mod database;
mod environment;
mod events;
mod http;
mod keyspace;
mod layers;
mod limit;
mod load;
mod problems;
mod rate_limit;
pub mod reference;
mod replica;
mod section;
mod server;
mod session;
mod session_dashboard;
mod setting;
mod show;
pub(crate) mod size;
mod tables;
mod tls;
mod warnings;
mod weak_text;
mod webhooks;

pub use self::{
    attach::AttachSettings,
    dashboard::Dashboard,
    database::{Database, DatabaseUrl},
    http::Http,
    layers::{Flags, Origin, Origins},
    load::{Config, file, load, parse},
    rate_limit::{RateLimitStore, RateLimits},
    replica::ReplicaSettings,
    server::Server,
    show::show,
    tls::{TlsClient, TlsRole, TlsSettings},
    warnings::warnings,
    webhooks::Webhooks,
};

#[cfg(test)]
mod tests;
