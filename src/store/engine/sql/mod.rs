//! The SQL that both databases run as it is, by noun. Parameters are `$N` on both. A statement that only one database
//! understands is in that database's folder, with the reason.

pub mod database;
pub mod events;
pub(crate) mod filter;
pub mod keys;
pub mod sessions;
