//! Many replicas on one Postgres, paused, cut off and killed: no Verify that starts after Revoke returned OK, on any
//! replica, answers VALID for that key. Each test has a Postgres of its own, since that is crashed too.

mod active;
mod chaos;
mod cluster;
#[path = "../support/database.rs"]
mod database;
mod guards;
mod history;
mod lease;
mod load;
mod order;
mod pooler;
#[path = "../support/proxy.rs"]
mod proxy;
mod sqlite;
mod storm;
#[path = "../support/mod.rs"]
mod support;
mod usage;
