//! How each verb runs on a connection, by noun: its statements and their order, the same for both databases. Each file
//! also has the trait of what the noun needs of a database in that database's own SQL.

pub(crate) mod database;
pub(crate) mod events;
pub(crate) mod keys;
pub(crate) mod sessions;
