//! Every table of the file, in the order of the documents.

use super::{
    dashboard, database, events, http, keyspace, rate_limit, replica, server, session, setting::Table, tls, webhooks,
};

/// The tables.
pub const TABLES: [&Table; 11] = [
    &database::TABLE,
    &server::TABLE,
    &tls::TABLE,
    &replica::TABLE,
    &rate_limit::TABLE,
    &http::TABLE,
    &dashboard::TABLE,
    &webhooks::TABLE,
    &events::TABLE,
    &session::TABLE,
    &keyspace::settings::TABLE,
];
