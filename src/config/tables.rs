//! Every table of the file, in the order of the documents.

use super::{
    attach, dashboard, database, events, http, keyspace, rate_limit, replica, server, session, setting::Table, tls,
    webhooks,
};

/// The tables.
pub const TABLES: [&Table; 12] = [
    &database::TABLE,
    &server::TABLE,
    &tls::TABLE,
    &replica::TABLE,
    &attach::TABLE,
    &rate_limit::TABLE,
    &http::TABLE,
    &dashboard::TABLE,
    &webhooks::TABLE,
    &events::TABLE,
    &session::TABLE,
    &keyspace::settings::TABLE,
];
