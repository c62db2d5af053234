//! `keys`.

pub mod create;
pub mod revoke;
pub mod show;
pub mod verify;
pub mod webhook;
