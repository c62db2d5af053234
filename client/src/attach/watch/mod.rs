//! Watched keys: work that was admitted under a key ends with the key.
//!
//! A key is *watched* while at least one [`Ended`](crate::Ended) future waits for its end. All other keys cost nothing
//! here. The session's task *covers* each watched key: it takes the key's facts from its memory, or looks the key up,
//! and from then on the replica sends an invalidation when the key changes. After an invalidation the key is looked up
//! again at the same replica; only that answer ends the work.
//!
//! When the session ends, its watched keys are uncovered, and their work goes on: the next session may find the keys
//! unchanged. [`AttachOptions::grace_period`](super::AttachOptions::grace_period) bounds how long that may take.

mod state;
#[cfg(test)]
mod tests;
mod waiter;
mod watches;

pub(super) use self::{
    waiter::AttachedWatcher,
    watches::{Confirmed, KeyName, Watch, Watches},
};
