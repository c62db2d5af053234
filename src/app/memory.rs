//! Protects the process's memory from other processes: it holds digests, subkeys, and the secrets of calls in flight.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Turns core dumps off, and keeps other processes of the same user from reading the memory, unless an operator wants them
/// (`server.dumpable`). What the system refuses is logged.
pub fn protect_unless(dumpable: bool) {
    if dumpable {
        return;
    }
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "core dumps cannot be turned off");
    }
    // Also covers a core dump that a program receives through a pipe, which the limit does not.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "other processes of this user can read the memory");
    }
}
