//! Several replicas on one Postgres, which are paused, cut off and killed. No Verify that starts after Revoke returned OK
//! may answer VALID for that key, on any replica. Each test starts its own Postgres, because tests crash it, too.

mod active;
mod chaos;
mod client_guards;
mod client_process;
mod client_storm;
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
mod storm_settings;
#[path = "../support/mod.rs"]
mod support;
mod usage;
