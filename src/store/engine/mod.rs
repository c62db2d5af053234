//! What both databases share. The backends in `postgres` and `sqlite` bring their own SQL and rules of opening.

pub(crate) mod attempts;
pub(crate) mod backend;
pub mod batch;
pub(crate) mod classify;
pub(crate) mod connection;
pub(crate) mod insert;
pub(crate) mod migrate;
pub(crate) mod ops;
pub(crate) mod pool;
pub(crate) mod rows;
pub mod sql;
pub(crate) mod write_batch;
pub(crate) mod write_history;
