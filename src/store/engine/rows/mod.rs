//! The rows that the statements return, and how they are read.

pub(crate) mod events;
mod from_row;
pub(crate) mod keys;
pub(crate) mod readable;
pub(crate) mod sessions;
