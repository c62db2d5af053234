//! The composition root: builds everything from the configuration, starts it in one order and stops it in another.

mod banner;
mod commands;
mod error;
mod file_limit;
mod listeners;
mod memory;
mod open_store;
mod parts;
mod port_options;
mod progress;
mod readiness;
mod run;
mod startup_servers;
mod system_user;
mod workers;

pub use self::{
    commands::{check, file_warnings, migrate, root_key},
    error::RunError,
    memory::protect_unless as protect_memory_unless,
    run::run,
};
